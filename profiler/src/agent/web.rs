//! The host's page and its metrics, on this machine only. The only place that names axum.
//!
//! Nothing here starts or changes anything. A page in a browser can ask any address, this one too, under a name that leads
//! here; so what does not ask for this machine by an address of its own is turned away.

mod overview;
mod windows;

use std::{
    fs::{self, Permissions},
    io::{self, ErrorKind},
    net::TcpListener,
    os::unix::{fs::PermissionsExt as _, net::UnixListener},
    path::PathBuf,
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow};
use axum::{
    Router,
    extract::{Query, Request, State as Shared},
    http::{HeaderName, StatusCode, header},
    middleware::{Next, from_fn},
    response::{IntoResponse as _, Response},
    routing::get,
};
use serde::Deserialize;
use tokio::{runtime, sync::oneshot, task::spawn_blocking};

use self::windows::{Asked, Windows};
use super::{
    address::{Address, take_away_stale},
    file::ServiceRule,
    metrics,
    options::Options,
    state::State,
};

/// How long to try to take an address that the session before had.
const PATIENCE: Duration = Duration::from_secs(5);
/// Pages that are made at a time: each reads files and takes memory.
const MOST_AT_A_TIME: usize = 2;

/// The thread that answers; it ends with this.
pub struct Server {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Clone)]
struct Known {
    state: State,
    windows: Arc<Windows>,
    services: Arc<Vec<ServiceRule>>,
    at_a_time: Arc<tokio::sync::Semaphore>,
}

impl Server {
    pub fn start(
        address: &Address,
        state: State,
        directory: Option<PathBuf>,
        options: &Options,
    ) -> anyhow::Result<Self> {
        let listener = listen(address)?;
        let known = Known {
            state,
            windows: Arc::new(Windows::of(directory)),
            services: Arc::new(options.services.clone()),
            at_a_time: Arc::new(tokio::sync::Semaphore::new(MOST_AT_A_TIME)),
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("failed to start the runtime of the page")?;
        let work = move || {
            runtime.block_on(async move {
                // Who has asked last may not be answered; connections that are kept open would be waited for.
                tokio::select! {
                    () = serve(listener, router(known)) => {}
                    _ = stopped => {}
                }
            });
            // Pages that are being made are waited for by nobody.
            runtime.shutdown_background();
        };
        let thread = thread::Builder::new()
            .name("page".to_owned())
            .spawn(work)
            .context("failed to start the thread of the page")?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What somebody can connect to.
enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

async fn serve(listener: Listener, router: Router) {
    // It only ends where the runtime has no room for the socket, which the user sees as a page that does not answer.
    let _ = match listener {
        Listener::Tcp(listener) => match tokio::net::TcpListener::from_std(listener) {
            Ok(listener) => axum::serve(listener, router).await,
            Err(error) => Err(error),
        },
        Listener::Unix(listener) => match tokio::net::UnixListener::from_std(listener) {
            Ok(listener) => axum::serve(listener, router).await,
            Err(error) => Err(error),
        },
    };
}

fn listen(address: &Address) -> anyhow::Result<Listener> {
    let until = Instant::now() + PATIENCE;
    loop {
        match bound(address) {
            Ok(listener) => return Ok(listener),
            Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < until => {
                thread::sleep(Duration::from_millis(100));
            }
            Err(error) => {
                let remedy = match error.kind() {
                    ErrorKind::AddrInUse => "another program has it (another agent?); name another",
                    _ => "name another with --listen",
                };
                return Err(anyhow!("cannot listen at {address}: {error}; {remedy}"));
            }
        }
    }
}

fn bound(address: &Address) -> io::Result<Listener> {
    match address {
        Address::Tcp(address) => {
            let listener = TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            Ok(Listener::Tcp(listener))
        }
        Address::Unix(path) => {
            take_away_stale(path)?;
            let listener = UnixListener::bind(path)?;
            // Until here nobody could connect but root and who has the same group, by the usual umask: that takes the right
            // to write.
            fs::set_permissions(path, Permissions::from_mode(0o600))?;
            listener.set_nonblocking(true)?;
            Ok(Listener::Unix(listener))
        }
    }
}

fn router(known: Known) -> Router {
    Router::new()
        .route("/", get(overview))
        .route("/metrics", get(metrics))
        .route("/report", get(report))
        .route("/diff", get(diff))
        .route("/download", get(download))
        .layer(from_fn(only_for_this_machine))
        .with_state(known)
}

/// Refuses what was sent here under a stranger's name.
async fn only_for_this_machine(request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let mut response = match host.is_some_and(is_own) {
        true => next.run(request).await,
        false => (StatusCode::FORBIDDEN, "ask by 127.0.0.1, [::1] or localhost\n").into_response(),
    };
    let headers = response.headers_mut();
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        headers.insert(name, header::HeaderValue::from_static(value));
    }
    response
}

fn is_own(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map_or("", |(name, _)| name),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost")
        || (name.parse::<std::net::IpAddr>()).is_ok_and(|address| address.is_loopback())
}

const HTML: (HeaderName, &str) = (header::CONTENT_TYPE, "text/html; charset=utf-8");

async fn overview(Shared(known): Shared<Known>) -> Response {
    let windows = known.windows.names();
    let seen = known.state.lock().clone();
    let policy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'self'";
    let page = overview::page(&seen, &windows);
    ([HTML, (header::CONTENT_SECURITY_POLICY, policy)], page).into_response()
}

async fn metrics(Shared(known): Shared<Known>) -> Response {
    let seen = known.state.lock().clone();
    const KIND: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    match metrics::text(&seen) {
        Ok(text) => ([(header::CONTENT_TYPE, KIND)], text).into_response(),
        Err(error) => failed(&error),
    }
}

/// Which windows are wanted, and what of them.
#[derive(Clone, Debug, Deserialize)]
struct Wanted {
    kind: Option<windows::Kind>,
    from: Option<String>,
    to: Option<String>,
    /// Of `/diff`, what is compared with.
    before_from: Option<String>,
    before_to: Option<String>,
    service: Option<String>,
}

impl Wanted {
    fn asked(&self) -> Asked {
        Asked {
            kind: self.kind.unwrap_or_default(),
            from: self.from.clone().filter(|name| !name.is_empty()),
            to: self.to.clone().filter(|name| !name.is_empty()),
            service: self.service.clone().filter(|name| !name.is_empty()),
        }
    }

    fn before(&self) -> Asked {
        Asked {
            from: self.before_from.clone().filter(|name| !name.is_empty()),
            to: self.before_to.clone().filter(|name| !name.is_empty()),
            ..self.asked()
        }
    }
}

async fn report(Shared(known): Shared<Known>, Query(wanted): Query<Wanted>) -> Response {
    let (windows, services) = (Arc::clone(&known.windows), Arc::clone(&known.services));
    made(&known, move || windows.report(&wanted.asked(), &services), &[HTML]).await
}

async fn diff(Shared(known): Shared<Known>, Query(wanted): Query<Wanted>) -> Response {
    let (windows, services) = (Arc::clone(&known.windows), Arc::clone(&known.services));
    let make = move || windows.diff(&wanted.before(), &wanted.asked(), &services);
    made(&known, make, &[HTML]).await
}

async fn download(Shared(known): Shared<Known>, Query(wanted): Query<Wanted>) -> Response {
    let (windows, services) = (Arc::clone(&known.windows), Arc::clone(&known.services));
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream"),
        (header::CONTENT_DISPOSITION, "attachment; filename=\"profile.pb.gz\""),
    ];
    made(&known, move || windows.pprof(&wanted.asked(), &services), &headers).await
}

/// What takes a while, on a thread of its own, a few at a time.
async fn made(
    known: &Known,
    make: impl FnOnce() -> anyhow::Result<Vec<u8>> + Send + 'static,
    headers: &[(HeaderName, &'static str)],
) -> Response {
    let Ok(turn) = Arc::clone(&known.at_a_time).acquire_owned().await else {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    };
    // Who goes away leaves the work behind, and it goes on: the turn is its own.
    let make = move || {
        let _turn = turn;
        make()
    };
    match spawn_blocking(make).await {
        Ok(Ok(bytes)) => {
            let mut response = bytes.into_response();
            for (name, value) in headers {
                let value = header::HeaderValue::from_static(value);
                response.headers_mut().insert(name.clone(), value);
            }
            response
        }
        Ok(Err(error)) => failed(&error),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

fn failed(error: &anyhow::Error) -> Response {
    (StatusCode::NOT_FOUND, format!("{error:#}\n")).into_response()
}
