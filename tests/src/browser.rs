//! Headless Chromium, driven by its DevTools protocol over a pipe: JSON with a zero byte behind each message, on its
//! descriptors 3 and 4 (`--remote-debugging-pipe`). When the pipe closes, Chromium ends.

use std::{
    ffi::OsStr,
    fs::File,
    io::{Read as _, Write as _},
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::process::CommandExt as _,
    },
    path::Path,
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Debian's name of it, and that of others.
const NAMES: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "chrome"];
/// How long one answer may take: the machine has two CPUs, and others use them.
const PATIENCE_MS: i32 = 60_000;

pub struct Browser {
    child: Child,
    to: File,
    from: File,
    unread: Vec<u8>,
    number: u64,
    session: Option<String>,
    /// What the page complained of: exceptions, and what its policy refused.
    complaints: Vec<String>,
    _profile: TempDir,
}

/// What the page is shown on.
#[derive(Clone, Copy, Debug)]
pub struct Screen {
    pub width: u32,
    pub dark: bool,
}

impl Browser {
    /// Starts one, if the machine has one.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn start() -> Result<Option<Self>> {
        let Some(program) = NAMES.iter().find(|name| is_there(name)) else {
            return Ok(None);
        };
        let profile = tempfile::tempdir()?;
        let (theirs_in, to) = pipe()?;
        let (from, theirs_out) = pipe()?;
        let mut command = Command::new(program);
        command
            // Chromium refuses to be root in its sandbox, and what it opens here is ours.
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"])
            .args([
                "--hide-scrollbars",
                "--no-first-run",
                "--disable-extensions",
                "--disable-background-networking",
            ])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let (input, output) = (theirs_in.as_raw_fd(), theirs_out.as_raw_fd());
        // SAFETY: only fcntl and dup2 are called between fork and exec, on descriptors that are open.
        unsafe {
            command.pre_exec(move || {
                // Away from 3 and 4 first, as they may be these already.
                let input = libc::fcntl(input, libc::F_DUPFD_CLOEXEC, 10);
                let output = libc::fcntl(output, libc::F_DUPFD_CLOEXEC, 10);
                if input < 0 || output < 0 || libc::dup2(input, 3) < 0 || libc::dup2(output, 4) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            });
        }
        let child = command.spawn().with_context(|| format!("cannot start {program}"))?;
        let mut browser = Self {
            child,
            to: to.into(),
            from: from.into(),
            unread: Vec::new(),
            number: 0,
            session: None,
            complaints: Vec::new(),
            _profile: profile,
        };
        let target = browser.call("Target.createTarget", json!({"url": "about:blank"}))?;
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let attached = browser.call("Target.attachToTarget", attach)?;
        browser.session = attached["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page.enable", "Runtime.enable", "Log.enable"] {
            browser.call(domain, json!({}))?;
        }
        Ok(Some(browser))
    }

    /// Opens a page and waits until it says that it is ready.
    ///
    /// # Errors
    /// If it says that it cannot be shown, or says nothing.
    pub fn open(&mut self, file: &Path, screen: Screen) -> Result<()> {
        self.navigate(file, screen)?;
        let trouble = self.eval(
            "new Promise((ended) => {
                const look = () => {
                    const trouble = document.getElementById('trouble');
                    if (document.documentElement?.dataset.ready) ended('');
                    else if (trouble && !trouble.hidden) ended(trouble.textContent);
                    else setTimeout(look, 5);
                };
                look();
            })",
        )?;
        ensure!(trouble == "", "the page says: {trouble}");
        Ok(())
    }

    /// Opens a picture with a script, and waits until that has begun.
    ///
    /// # Errors
    /// If the browser is gone.
    pub fn open_picture(&mut self, file: &Path, screen: Screen) -> Result<()> {
        self.navigate(file, screen)?;
        self.eval(
            "new Promise((ended) => {
                const look = () => {
                    if (document.documentElement?.tagName === 'svg' && document.readyState === 'complete') ended(1);
                    else setTimeout(look, 5);
                };
                look();
            })",
        )?;
        Ok(())
    }

    /// Opens what is at an address, and waits until it has been read.
    ///
    /// # Errors
    /// If the browser is gone.
    pub fn open_address(&mut self, address: &str, screen: Screen) -> Result<()> {
        self.navigate_to(address, screen)?;
        self.eval(
            "new Promise((ended) => {
                const look = () => {
                    if (location.href !== 'about:blank' && document.readyState === 'complete') ended();
                    else setTimeout(look, 5);
                };
                look();
            })",
        )?;
        Ok(())
    }

    fn navigate(&mut self, file: &Path, screen: Screen) -> Result<()> {
        self.navigate_to(&format!("file://{}", file.display()), screen)
    }

    fn navigate_to(&mut self, address: &str, screen: Screen) -> Result<()> {
        let metrics = json!({"width": screen.width, "height": 900, "deviceScaleFactor": 1, "mobile": false});
        self.call("Emulation.setDeviceMetricsOverride", metrics)?;
        let scheme = if screen.dark { "dark" } else { "light" };
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.call("Emulation.setEmulatedMedia", features)?;
        self.complaints.clear();
        // A page that only changes its fragment would not be loaded again.
        self.call("Page.navigate", json!({"url": "about:blank"}))?;
        self.call("Page.navigate", json!({"url": address}))?;
        Ok(())
    }

    /// The value of an expression, or of what it promises.
    ///
    /// # Errors
    /// If it throws.
    pub fn eval(&mut self, expression: &str) -> Result<Value> {
        let ask = json!({"expression": expression, "awaitPromise": true, "returnByValue": true});
        let answer = self.call("Runtime.evaluate", ask)?;
        if let Some(thrown) = answer.get("exceptionDetails") {
            bail!("{expression}: {thrown}");
        }
        Ok(answer["result"]["value"].clone())
    }

    /// What is shown of the first element that a selector finds.
    ///
    /// # Errors
    /// If there is none.
    pub fn text(&mut self, selector: &str) -> Result<String> {
        let selector = json!(selector);
        let text = self.eval(&format!("document.querySelector({selector})?.innerText"))?;
        Ok(text
            .as_str()
            .with_context(|| format!("there is no {selector}"))?
            .to_owned())
    }

    /// Clicks on the first element that a selector finds, as a pointer would.
    ///
    /// # Errors
    /// If there is none.
    pub fn click(&mut self, selector: &str) -> Result<()> {
        let script = format!(
            "(() => {{ document.querySelector({}).click(); return 1; }})()",
            json!(selector)
        );
        self.eval(&script).map(drop)
    }

    /// Presses a key, as a keyboard would.
    ///
    /// # Errors
    /// If the browser is gone.
    pub fn key(&mut self, key: &str) -> Result<()> {
        for kind in ["keyDown", "keyUp"] {
            let mut press = json!({"type": kind, "key": key});
            if key.chars().count() == 1 && kind == "keyDown" {
                press["text"] = json!(key);
            }
            self.call("Input.dispatchKeyEvent", press)?;
        }
        Ok(())
    }

    /// The same with the Shift key held.
    ///
    /// # Errors
    /// If the browser is gone.
    pub fn shift_key(&mut self, key: &str) -> Result<()> {
        const SHIFT: u32 = 8;
        for kind in ["keyDown", "keyUp"] {
            let press = json!({"type": kind, "key": key, "modifiers": SHIFT});
            self.call("Input.dispatchKeyEvent", press)?;
        }
        Ok(())
    }

    /// Drags with the pointer over the first element that a selector finds, from one place to another, which are shares of
    /// its width and height.
    ///
    /// # Errors
    /// If there is none.
    pub fn drag(&mut self, selector: &str, from: (f64, f64), to: (f64, f64)) -> Result<()> {
        let place = self.eval(&format!(
            "(() => {{
                const element = document.querySelector({});
                element.scrollIntoView({{ block: 'nearest' }});
                const box = element.getBoundingClientRect();
                return [box.left, box.top, box.width, box.height];
            }})()",
            json!(selector)
        ))?;
        let [left, top, width, height]: [f64; 4] = serde_json::from_value(place)?;
        let at = |(x, y): (f64, f64)| (left + x * width, top + y * height);
        for (kind, (x, y), buttons) in [
            ("mouseMoved", at(from), 0),
            ("mousePressed", at(from), 1),
            ("mouseMoved", at(to), 1),
            ("mouseReleased", at(to), 0),
        ] {
            let button = if kind == "mouseMoved" && buttons == 0 {
                "none"
            } else {
                "left"
            };
            let event = json!({"type": kind, "x": x, "y": y, "button": button, "buttons": buttons, "clickCount": 1});
            self.call("Input.dispatchMouseEvent", event)?;
        }
        Ok(())
    }

    /// Exceptions of the page, and what its policy refused.
    pub fn complaints(&self) -> &[String] {
        &self.complaints
    }

    fn call(&mut self, method: &str, params: Value) -> Result<Value> {
        self.number += 1;
        let mut message = json!({"id": self.number, "method": method, "params": params});
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        let mut bytes = serde_json::to_vec(&message)?;
        bytes.push(0);
        self.to.write_all(&bytes).context("the browser is gone")?;
        loop {
            let answer = self.read().with_context(|| format!("no answer to {method}"))?;
            if answer["id"] == self.number {
                if let Some(error) = answer.get("error") {
                    bail!("{method}: {error}");
                }
                return Ok(answer["result"].clone());
            }
            if matches!(
                answer["method"].as_str(),
                Some("Log.entryAdded" | "Runtime.exceptionThrown")
            ) {
                self.complaints.push(answer["params"].to_string());
            }
        }
    }

    fn read(&mut self) -> Result<Value> {
        loop {
            if let Some(end) = self.unread.iter().position(|byte| *byte == 0) {
                let message: Vec<u8> = self.unread.drain(..=end).collect();
                return Ok(serde_json::from_slice(&message[..end])?);
            }
            let mut ready = libc::pollfd {
                fd: self.from.as_raw_fd(),
                events: libc::POLLIN,
                revents: 0,
            };
            // SAFETY: one entry, which is live.
            let count = unsafe { libc::poll(&raw mut ready, 1, PATIENCE_MS) };
            ensure!(count > 0, "nothing came for {} s", PATIENCE_MS / 1000);
            let mut bytes = [0; 1 << 16];
            let count = self.from.read(&mut bytes)?;
            ensure!(count > 0, "the browser ended");
            self.unread.extend_from_slice(&bytes[..count]);
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn is_there(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_else(|| OsStr::new("/usr/bin").to_owned());
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// Its ends to read and to write.
fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    let mut ends = [0; 2];
    // SAFETY: the array has room for the two descriptors.
    let made = unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) };
    ensure!(made == 0, "cannot make a pipe: {}", std::io::Error::last_os_error());
    // SAFETY: they were just opened, and nobody else has them.
    Ok(unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) })
}
