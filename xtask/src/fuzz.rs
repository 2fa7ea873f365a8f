//! `cargo xtask fuzz`: parsers of foreign bytes, tried with bytes that nobody has thought of.

use anyhow::{Result, ensure};
use clap::Args;

use crate::{cargo, command, setup};

/// Try the parsers of foreign bytes with damaged ones
///
/// Each for some seconds, with arithmetic checked. An input that makes one panic is kept in target/.
#[derive(Args)]
pub struct Options {
    /// Only these targets
    targets: Vec<String>,
    /// Seconds for each
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

pub fn run(options: &Options) -> Result<()> {
    setup::ensure()?;
    let example = |arguments: &[&str]| {
        let mut run = cargo::command("run");
        run.args(["--quiet", "--package", "profiler", "--example", "fuzz", "--"])
            .args(arguments);
        run
    };
    let listed = example(&[]).output()?;
    ensure!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    let listed = String::from_utf8(listed.stdout)?;
    let wanted = |name: &&str| options.targets.is_empty() || options.targets.iter().any(|target| target == name);
    let seconds = options.seconds.to_string();
    for name in listed.lines().filter(wanted) {
        command::run(&mut example(&[name, &seconds]))?;
    }
    Ok(())
}
