//! The first page: what runs on this host, and which windows there are.

use std::{collections::BTreeSet, fmt::Write as _, time::Duration};

use crate::{
    agent::{
        digest::{Digest, Kind, ServiceSums},
        state::Seen,
    },
    flight::names,
    humanize, shown,
    waits::cause::Cause,
};

/// Rows of the table.
const MOST_ROWS: usize = 100;
/// Waits that mean that somebody would go on: for a time, or for somebody to ask, threads wait all day.
const TELLING: [Cause; 8] = [
    Cause::Gil,
    Cause::Lock,
    Cause::Socket,
    Cause::Pipe,
    Cause::Disk,
    Cause::Fault,
    Cause::Ready,
    Cause::Throttled,
];

const STYLE: &str = "\
:root{color-scheme:light dark}
body{font:15px/1.45 system-ui,sans-serif;margin:1.5rem auto;max-width:72rem;padding:0 1rem}
h1{font-size:1.3rem;margin:0 0 .3rem}h2{font-size:1.05rem;margin:1.6rem 0 .4rem}
table{border-collapse:collapse;width:100%}
th,td{text-align:left;padding:.25rem .6rem .25rem 0;border-bottom:1px solid #8884;vertical-align:top}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
td.line{overflow-wrap:anywhere}
p.bad{border-left:4px solid #c33;padding-left:.6rem}
.dim{opacity:.7}
.bars{display:flex;align-items:flex-end;gap:2px;height:64px;margin:.4rem 0}
.bars a{flex:1 1 0;min-width:3px;max-width:24px;background:#48c;display:block}
.bars a:hover,.bars a:focus{background:#c63}
form{display:flex;flex-wrap:wrap;gap:.5rem;align-items:center;margin:.4rem 0}
select,button{font:inherit}";

pub fn page(seen: &Seen, windows: &[String]) -> String {
    let mut out = String::new();
    let title = "profiler agent";
    let _ = write!(
        out,
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width\"><title>{title}</title><style>{STYLE}</style><h1>{title}</h1>"
    );
    if let Some(why) = &seen.paused {
        let _ = write!(out, "<p class=\"bad\">Nothing is looked at: {}</p>", escaped(why));
    }
    match &seen.last {
        Some(last) => services(&mut out, last),
        None => out.push_str("<p>The first window has not ended yet.</p>"),
    }
    alerts(&mut out, seen);
    history(&mut out, seen, windows);
    outputs(&mut out, seen);
    own(&mut out, seen);
    out.push_str("</html>\n");
    out
}

fn services(out: &mut String, last: &Digest) {
    let _ = write!(
        out,
        "<p class=\"dim\">The window from {} on, {}.</p><table><tr><th>service<th class=\"n\">processes\
         <th class=\"n\">CPU<th>of it<th>waits for<th class=\"n\">growth<th>hottest line, and the one that got most memory",
        names::stamp(last.began),
        humanize::duration(last.length)
    );
    let mut rows: Vec<(&String, &ServiceSums)> = last.services.iter().collect();
    rows.sort_by_key(|(name, sums)| (std::cmp::Reverse((sums.cpu(), sums.growth_bytes)), *name));
    let left_out = rows.len().saturating_sub(MOST_ROWS);
    for (name, sums) in rows.into_iter().take(MOST_ROWS) {
        row(out, name, sums, last.length);
    }
    out.push_str("</table>");
    if left_out > 0 {
        let _ = write!(out, "<p class=\"dim\">{left_out} services more did less.</p>");
    }
}

fn row(out: &mut String, name: &str, sums: &ServiceSums, length: Duration) {
    let seconds = length.as_secs_f64().max(f64::MIN_POSITIVE);
    let share = |ns: u64| percent(ns as f64 / 1e9 / seconds);
    let link = |kind: &str, text: &str| {
        format!(
            "<a href=\"/report?kind={kind}&amp;service={}\">{text}</a>",
            in_url(name)
        )
    };
    let kinds: Vec<String> = (Kind::ALL.iter().zip(sums.cpu_ns))
        .filter(|(_, ns)| *ns > 0 && sums.cpu() > 0)
        .map(|(kind, ns)| format!("{} {}", kind.name(), percent(ns as f64 / sums.cpu() as f64)))
        .collect();
    let mut waits: Vec<(Cause, u64)> = (TELLING.iter())
        .map(|cause| (*cause, sums.waiting(*cause)))
        .filter(|(_, ns)| *ns > 0)
        .collect();
    waits.sort_by_key(|(_, ns)| std::cmp::Reverse(*ns));
    let waits: Vec<String> = (waits.iter().take(2))
        .map(|(cause, ns)| {
            // Of its threads' time: so much would be gained at most.
            format!(
                "{} {}",
                cause.name(),
                percent(*ns as f64 / sums.threads_ns.max(1) as f64)
            )
        })
        .collect();
    let line = |lines: &[(String, u64)]| lines.first().map_or(String::new(), |(line, _)| escaped(line));
    let _ = write!(
        out,
        "<tr><td>{}<td class=\"n\">{}<td class=\"n\">{}<td>{}<td>{}<td class=\"n\">{}<td class=\"line\">{}<br><span \
         class=\"dim\">{}</span>",
        link("time", &escaped(name)),
        sums.pids.len(),
        share(sums.cpu()),
        kinds.join(", "),
        waits.join(", "),
        link("memory", &humanize::bytes_change(sums.growth_bytes)),
        line(&sums.lines),
        line(&sums.growing),
    );
}

fn alerts(out: &mut String, seen: &Seen) {
    if seen.last_alerts.is_empty() {
        return;
    }
    out.push_str("<h2>Alerts</h2><table><tr><th>window<th>service<th>what");
    for alert in seen.last_alerts.iter().rev() {
        let pid = alert.pid.map_or(String::new(), |pid| format!(" ({pid})"));
        let _ = write!(
            out,
            "<tr><td>{}<td>{}{pid}<td class=\"line\">{}",
            escaped(&alert.window),
            escaped(&alert.service),
            escaped(&alert.what)
        );
        for line in &alert.evidence {
            let _ = write!(out, "<br><span class=\"dim\">{}</span>", escaped(line));
        }
    }
    out.push_str("</table>");
}

/// A bar for each window, as high as what the host computed in it; and which to look at or to compare.
fn history(out: &mut String, seen: &Seen, windows: &[String]) {
    if windows.is_empty() {
        return;
    }
    out.push_str("<h2>Windows</h2>");
    let busy = |digest: &Digest| {
        let cpu: u64 = digest.services.values().map(ServiceSums::cpu).sum();
        cpu as f64 / 1e9 / digest.length.as_secs_f64().max(f64::MIN_POSITIVE)
    };
    let there: BTreeSet<&String> = windows.iter().collect();
    let most = seen.history.iter().map(busy).fold(f64::MIN_POSITIVE, f64::max);
    out.push_str("<div class=\"bars\">");
    for digest in &seen.history {
        let name = names::stamp(digest.began);
        if !there.contains(&name) {
            continue;
        }
        let cpus = busy(digest);
        let _ = write!(
            out,
            "<a href=\"/report?from={name}&amp;to={name}\" title=\"{name}: {cpus:.2} CPUs busy\" aria-label=\"{name}: \
             {cpus:.2} CPUs busy\" style=\"height:{:.0}%\"></a>",
            (cpus / most * 100.0).clamp(2.0, 100.0)
        );
    }
    out.push_str("</div>");
    let services: BTreeSet<&String> = seen.history.iter().flat_map(|digest| digest.services.keys()).collect();
    let choose = |name: &str, first: bool| {
        let mut text = format!("<select name=\"{name}\" aria-label=\"{name}\">");
        for (at, window) in windows.iter().enumerate() {
            let selected = match first {
                true => at == 0,
                false => at + 1 == windows.len(),
            };
            let selected = if selected { " selected" } else { "" };
            let _ = write!(text, "<option{selected}>{}</option>", escaped(window));
        }
        text.push_str("</select>");
        text
    };
    let mut whose =
        String::from("<select name=\"service\" aria-label=\"service\"><option value=\"\">all services</option>");
    for service in services {
        let _ = write!(whose, "<option>{}</option>", escaped(service));
    }
    whose.push_str("</select>");
    let kind = "<select name=\"kind\" aria-label=\"kind\"><option value=\"time\">CPU time and waits</option><option \
                value=\"memory\">memory</option></select>";
    let _ = write!(
        out,
        "<form action=\"/report\">{kind} of {whose} from {} to {} <button>Show</button> <button \
         formaction=\"/download\">Download (pprof)</button></form>",
        choose("from", true),
        choose("to", false)
    );
    let _ = write!(
        out,
        "<form action=\"/diff\">{kind} of {whose}: {} to {} against {} to {} <button>Compare</button></form>",
        choose("before_from", true),
        choose("before_to", true),
        choose("from", false),
        choose("to", false)
    );
}

fn outputs(out: &mut String, seen: &Seen) {
    if seen.outputs.is_empty() {
        return;
    }
    out.push_str(
        "<h2>Receivers</h2><table><tr><th>to<th class=\"n\">taken<th class=\"n\">wait<th class=\"n\">lost<th>trouble",
    );
    for output in &seen.outputs {
        let _ = write!(
            out,
            "<tr><td>{}<td class=\"n\">{}<td class=\"n\">{}<td class=\"n\">{}<td class=\"line\">{}",
            escaped(&output.name),
            humanize::count(output.sent),
            humanize::count(output.waiting),
            humanize::count(output.lost),
            escaped(output.trouble.as_deref().unwrap_or_default())
        );
    }
    out.push_str("</table>");
}

fn own(out: &mut String, seen: &Seen) {
    let Some(last) = &seen.last else { return };
    let seconds = last.length.as_secs_f64().max(f64::MIN_POSITIVE);
    let _ = write!(
        out,
        "<p class=\"dim\">The agent itself took {} of a CPU in that window, its programs in the kernel {}; it has {} of \
         memory. <a href=\"/metrics\">Metrics</a></p>",
        percent(last.own_cpu.as_secs_f64() / seconds),
        percent(last.kernel_cpu.as_secs_f64() / seconds),
        humanize::bytes(crate::cost::resident_bytes().0)
    );
    for (reason, number) in &last.lost {
        let _ = write!(
            out,
            "<p class=\"dim\">lost: {} {}</p>",
            humanize::count(*number),
            escaped(reason)
        );
    }
}

/// A number and its sign stay on one line.
fn percent(share: f64) -> String {
    humanize::percent(share).replace(' ', "\u{a0}")
}

/// What strangers have named, as it may stand in a page, in quotation marks as well.
fn escaped(text: &str) -> String {
    (shown::line(text))
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
        .replace('\'', "&#39;")
}

/// Text as a value in an address.
fn in_url(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => _ = write!(out, "%{byte:02X}"),
        }
    }
    out
}
