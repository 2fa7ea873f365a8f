//! What `why` found, as the page shows it: of a run, and of the recording that it left.

use anyhow::{Result, ensure};
use profiler_tests::{profiler::Profiler, python, workload::Workload};
use serde_json::Value;

use super::{DESK, Screen, Shown, shop, view};

#[test]
fn what_why_found_is_in_its_page_and_in_the_page_of_its_recording_alike() -> Result<()> {
    let Some(mut shown) = Shown::new()? else { return Ok(()) };
    let workload = Workload::python(&python::any()?, "why_cases.py", &["cpu"])?;
    let pid = workload.pid.to_string();
    let recording = shown.directory.path().join("why.pb.gz");
    let outcome = Profiler::bare()
        .args(["why", "-d", "2", "-p", &pid, "-o"])
        .arg(&recording)
        .run()?
        .success()?;
    // The answer is told as well.
    ensure!(outcome.stderr.contains(" cpu: "), "{}", outcome.stderr);
    let page = shown.directory.path().join("why.html");
    Profiler::bare()
        .arg("report")
        .arg(&recording)
        .arg("-o")
        .arg(&page)
        .succeed()?;
    shown.browser.open(&page, DESK)?;
    // It opens at them.
    let selected = shown.browser.text("#tabs [aria-selected=true]")?;
    ensure!(selected == "Findings", "{selected}");
    let answer = shown.browser.text("#answer")?;
    ensure!(
        answer.starts_with("critical ") || answer.starts_with("high "),
        "{answer}"
    );
    let found = shown
        .browser
        .eval("profile.page.data.findings.list.find((one) => one.kind === 'cpu')")?;
    let word = |name: &str| found[name].as_str().unwrap_or_default().to_owned();
    let text = shown.browser.text("#view-findings")?;
    for said in [
        word("sentence"),
        word("next"),
        format!("if it were gone: {}", word("gain")),
    ] {
        ensure!(said.len() > 10 && text.contains(&said), "{said} is not in\n{text}");
    }
    ensure!(word("function").ends_with("wrong"), "{found}");
    // From a finding to its line in what was recorded with it.
    let lead = "[...document.querySelectorAll('.finding')].find((one) => one.innerText.includes(' cpu')).querySelector('button')";
    shown.browser.eval(&format!("{lead}.click() ?? 1"))?;
    let head = shown.browser.text("#callers-of")?;
    ensure!(head.contains("wrong"), "{head}");
    let kinds = shown
        .browser
        .eval("profile.page.data.values.map((type) => type.kind).join()")?;
    ensure!(kinds == "samples,cpu,waits,wait,wall", "{kinds}");
    ensure!(
        shown.browser.complaints().is_empty(),
        "{:?}",
        shown.browser.complaints()
    );
    Ok(())
}

#[test]
fn findings_of_a_hostile_file_are_text_and_fit_a_telephone() -> Result<()> {
    let Some(mut shown) = Shown::new()? else { return Ok(()) };
    let hostile = "</script><img src=x onerror=\"window.owned=1\">a\u{202e}b".repeat(4);
    let finding = serde_json::json!({
        "kind": "gil", "severity": "critical", "share": 0.6, "error": 0.05, "function": hostile, "file": hostile,
        "line": 3, "via": hostile, "pid": 1, "command": hostile, "also": [2, 3], "sentence": hostile, "gain": hostile,
        "evidence": {"waited_s": 5.2, "holder": hostile}, "next": hostile,
    });
    let process = |pid: u32| -> Value {
        serde_json::json!({
            "pid": pid, "command": hostile, "understood": true, "threads": 3, "cpu_ns": 9_000_000_000_u64,
            "at_work_ns": 10_000_000_000_u64, "length_ns": 10_000_000_000_u64, "rss_bytes": null, "growth_bytes": 3_000_000,
        })
    };
    let mut profile = shop();
    profile.findings = Some(format!(
        "profiler.why {}",
        serde_json::json!({
            "schema": "profiler.why", "version": 1, "length_ns": 10_000_000_000_u64, "findings": [finding],
            "not_seen": ["disk", "gc"], "processes": [process(1), process(2)],
            "could_not_look": [{"kinds": ["churn"], "pid": 1, "reason": hostile}],
        })
    ));
    for screen in [DESK, Screen { width: 390, dark: true }] {
        shown.open(&profile, &view(), screen)?;
        let text = shown.browser.text("#view-findings")?;
        for said in [
            "CRITICAL gil",
            "(± 5.0 %)",
            "and 2 other workers",
            "Looked for and not seen: disk, gc.",
            "3 threads in 10 s",
        ] {
            ensure!(text.contains(said), "{said} is not in {text}");
        }
        ensure!(
            text.contains("<img src=x onerror=") && !text.contains('\u{202e}'),
            "{text}"
        );
        shown.browser.click(".finding summary")?;
        let rows = shown.rows(".finding")?;
        ensure!(rows.iter().any(|row| row == &["waited", "5.2 s"]), "{rows:?}");
        let wide = shown.browser.eval("document.documentElement.scrollWidth")?;
        ensure!(wide == screen.width, "{wide} pixels wide on {}", screen.width);
        let harm = shown.browser.eval("[typeof window.owned, document.images.length]")?;
        ensure!(harm == serde_json::json!(["undefined", 0]), "{harm}");
        ensure!(
            shown.browser.complaints().is_empty(),
            "{:?}",
            shown.browser.complaints()
        );
    }
    Ok(())
}
