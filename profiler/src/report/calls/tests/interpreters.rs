//! Files for `pstats`, read by the interpreters that there are.

use std::{
    io::Write as _,
    path::PathBuf,
    process::{Command, Stdio},
};

use super::*;

/// Prints what `pstats` makes of the file that it is given on standard input. A file's place is no matter here.
const READ: &str = r#"
import io, json, marshal, pstats, sys
class Profile:
    def create_stats(self):
        self.stats = marshal.load(sys.stdin.buffer)
stats = pstats.Stats(Profile(), stream=io.StringIO())
stats.sort_stats("cumulative").print_stats()
stats.print_callers()
stats.print_callees()
stats.strip_dirs()
stats.add(stats)
rows = sorted([list(key), list(value[:4]), sorted([list(by), list(edge)] for by, edge in value[4].items())]
    for key, value in stats.stats.items())
print(json.dumps([sys.version_info[:2], stats.total_calls, rows]))
"#;

/// The newest of each minor version of pyenv, or else the one that `PATH` has.
fn interpreters() -> Vec<PathBuf> {
    let root = std::env::var_os("PYENV_ROOT")
        .map(PathBuf::from)
        .or_else(|| Some(std::env::home_dir()?.join(".pyenv")));
    let versions = root.and_then(|root| fs::read_dir(root.join("versions")).ok());
    let mut found: Vec<_> = versions
        .into_iter()
        .flatten()
        .flatten()
        .filter(|version| {
            // 3.8 is the oldest that we profile.
            let name = version.file_name();
            let minor = name
                .to_str()
                .and_then(|name| name.strip_prefix("3.")?.split('.').next()?.parse().ok());
            minor.is_some_and(|minor: u32| minor >= 8)
        })
        .map(|version| version.path().join("bin/python"))
        .filter(|python| python.exists())
        .collect();
    if found.is_empty() {
        found.push("python3".into());
    }
    found
}

/// What an interpreter reads; nothing if there is none.
fn read(python: &Path, file: &[u8]) -> Option<Value> {
    let child = Command::new(python)
        .args(["-I", "-c", READ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let Ok(mut child) = child else {
        eprintln!("skipped: cannot run {}", python.display());
        return None;
    };
    child.stdin.take().unwrap().write_all(file).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{} cannot read it", python.display());
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

fn written(report: &CallsReport) -> Vec<u8> {
    let mut file = Vec::new();
    pstats::write(report, &mut file).unwrap();
    file
}

/// The statistics of a function in what was read, twice as large as they were written, as they were added to themselves.
fn row<'a>(read: &'a Value, name: &str) -> &'a Value {
    let rows = read[2].as_array().unwrap();
    rows.iter().find(|row| row[0][2] == name).unwrap()
}

#[test]
fn pstats_reads_what_was_counted() {
    let mut report = shop();
    for (name, calls) in [("many", 1 << 31), ("more", 1 << 62), ("most", u64::MAX)] {
        report
            .functions
            .push(function("/srv/\u{1f40d}.py", 4_000_000_000, name, calls, (0, 0)));
    }
    let file = written(&report);
    for python in interpreters() {
        let Some(read) = read(&python, &file) else { continue };
        assert_eq!(row(&read, "depth")[1], serde_json::json!([126, 8190, 0.18, 0.18]));
        assert_eq!(row(&read, "größe")[0], serde_json::json!(["größe.py", 1, "größe"]));
        assert_eq!(row(&read, "many")[1][1], 1_u64 << 32);
        assert_eq!(
            row(&read, "more")[0],
            serde_json::json!(["\u{1f40d}.py", 4_000_000_000_u32, "more"])
        );
        assert_eq!(row(&read, "more")[1][1], 1_u64 << 63);
        // 2^65 - 2, which JSON's readers take for a float.
        assert_eq!(row(&read, "most")[1][1].as_f64(), Some(65_f64.exp2()));
        assert_eq!(
            row(&read, "orders")[2],
            serde_json::json!([[["__main__.py", 3, "<module>"], [240, 240, 0.04, 9.6]]])
        );
    }
}

#[test]
fn pstats_reads_a_file_of_nothing() {
    let file = written(&CallsReport {
        functions: Vec::new(),
        ..shop()
    });
    for python in interpreters() {
        let Some(read) = read(&python, &file) else { continue };
        assert_eq!(read[1], 0);
    }
}
