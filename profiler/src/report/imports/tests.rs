use std::time::Duration;

use super::*;

fn import(name: &str, parent: Option<usize>, depth: u32, wall_ms: u64, nested_ms: u64, nested: u64) -> Import {
    Import {
        pid: 7,
        tid: 7,
        name: name.to_owned(),
        is_cut: false,
        parent,
        depth,
        wall_ns: wall_ms * 1_000_000,
        cpu_ns: wall_ms * 500_000,
        nested_ns: nested_ms * 1_000_000,
        nested_cpu_ns: 0,
        nested,
        direct: nested,
        is_unfinished: false,
    }
}

fn made() -> ImportsReport {
    let imports = vec![
        import("site", None, 0, 5, 0, 0),
        import("app", None, 0, 100, 30, 1),
        import("app.models\x1b[0m", Some(1), 1, 30, 0, 0),
    ];
    ImportsReport::new(
        imports,
        &[(7, "python3 app.py".to_owned())],
        1e6,
        Duration::from_secs(1),
        0,
    )
}

#[test]
fn a_tree_says_who_imports_what_and_how_long_that_takes() {
    // The probes of one import are taken off the one around it.
    let text = table::text(&made(), 2, 80);
    assert_eq!(
        text,
        "\
3 modules imported, which took 104.0 ms.

python3 app.py (7): 3 modules in 104.0 ms
   self  cumulative   share  on CPU  module
69.0 ms     99.0 ms  95.2 %  49.5 %  app
30.0 ms     30.0 ms  28.8 %  50.0 %    app.models�[0m
                                     (1 more)
"
    );
}

#[test]
fn importtime_has_a_module_after_those_that_it_imports() {
    let mut out = Vec::new();
    export::write_importtime(&made(), &mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[1], "import time:      5000 |       5000 | site");
    assert!(lines[2].starts_with("import time:     30000 |      30000 |   app.models"));
    assert_eq!(lines[3], "import time:     69000 |      99000 | app");
}
