//! How often for each call of another function: what counting slows down does not change it.

use anyhow::{Context as _, Result, ensure};
use profiler_tests::{
    calls::{self, Calls, WITHOUT_END},
    python,
    serial::serial,
};

const PAGES: u64 = 60;

#[test]
fn what_asks_again_and_again_is_told_first_and_a_loop_over_small_functions_is_not() -> Result<()> {
    let _serial = serial();
    python::each(|python| {
        let mut workload = calls::run(python, "asking.py", &[])?;
        let pid = workload.pid.to_string();
        for (page, each) in [("orders", 121), ("helpers", 2)] {
            let attached = Calls::record(&["-p", &pid, "--per", page, "-r", "499"])?
                .args(WITHOUT_END)
                .start()?;
            workload.tell(&format!("{page} {PAGES}"))?;
            ensure!(workload.value()?["asked"] == PAGES * each);
            let taken = attached.stop()?;
            let whole = taken.report()?.whole;
            let rows = whole["functions"].as_array().context("no functions")?;
            let row = rows.iter().find(|row| {
                let name = row["function"].as_str().unwrap_or_default();
                name.ends_with("execute")
            });
            let found = row.and_then(|row| row["calls_each"].as_f64());
            ensure!(
                found == Some(each as f64),
                "{found:?} calls for each of {page}, not {each}"
            );

            let repeated = whole["repeated"].as_array().context("no list")?;
            if page == "helpers" {
                ensure!(repeated.is_empty() && whole["perhaps_repeated"].is_null(), "{whole}");
                continue;
            }
            let [one] = &repeated[..] else {
                anyhow::bail!("{repeated:?} are told: {}", taken.outcome.stderr);
            };
            let number = |name: &str| one[name].as_f64().with_context(|| format!("no {name} in {one}"));
            ensure!(
                one["caller"] == "orders" && (number("least")?..=number("most")?).contains(&121.0),
                "{one}"
            );
            taken.outcome.line("N+1")?;
        }
        Ok(())
    })
}
