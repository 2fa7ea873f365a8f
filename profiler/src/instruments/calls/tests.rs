//! Claims about when probes are put in, on a kernel side that only keeps what it is asked.

use std::path::Path;

use clap::Parser as _;

use super::*;
use crate::{
    cli::{Cli, Command},
    orders::fake::Asked,
    process::files::FileId,
    python::calls::NoEntry,
};

fn counted() -> Calls {
    let words = [
        "profiler",
        "calls",
        "-p",
        "1",
        "--function",
        "f",
        "--via",
        "breakpoints",
    ];
    let Command::Calls(typed) = Cli::try_parse_from(words).expect("typed").command else {
        unreachable!("calls were typed");
    };
    let config = Config::from_calls_cli(typed).expect("a configuration");
    let wanted = config.calls.clone().expect("calls");
    Calls::new(&config, &wanted)
}

/// A file whose calls are seen somewhere.
fn places() -> Places {
    Places {
        found: CallProbes {
            calls: Vec::new(),
            entries: Err(NoEntry::NoTable),
            ends: Vec::new(),
            no_yields: None,
            cleanup_code: None,
            not_begun: None,
        },
        places: Vec::new(),
        code_adaptive: 0,
        number: 1,
    }
}

#[test]
fn no_probe_goes_in_where_one_that_made_way_may_still_be() {
    let mut calls = counted();
    let mut kernel = Asked::default();
    calls.measure(&mut kernel).expect("measured");
    let opened = MappedFile::open_path(Path::new("/proc/self/exe")).expect("this program");
    let (file, places) = (FileId::of_window(0), places());
    let mut attach = |kernel: &mut Asked| {
        let attached = calls.attach(kernel, file, &opened, &places, None).expect("no failure");
        let asked = mem::take(&mut kernel.orders);
        (
            attached.is_some(),
            asked.iter().any(|order| order.starts_with("probe calls")),
        )
    };
    kernel.leaving = true;
    assert_eq!(attach(&mut kernel), (false, false));
    kernel.leaving = false;
    assert_eq!(attach(&mut kernel), (true, true));
    // One that is in place stays, whoever else leaves.
    kernel.leaving = true;
    assert_eq!(attach(&mut kernel), (true, false));
}
