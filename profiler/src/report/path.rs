//! What of a source file's path is worth a column: the shortest part that tells it from others.
//!
//! It is made of the path alone, never of what else a recording has seen, so that one file reads the same in every
//! recording and two of them can be compared. `django/core/handlers/base.py` is what one would import; of a program's own
//! files nobody says where imports start, and the last three parts tell them apart nearly always.

use std::borrow::Cow;

/// Folders below which a path is what one would import.
const ROOTS: [&str; 2] = ["site-packages", "dist-packages"];

/// The path from the folder on that imports start at; elsewhere its last three parts, or all of a relative path.
pub(crate) fn short(path: &str) -> Cow<'_, str> {
    // `/srv/./app.py`: what was started as `./app.py`.
    if path.contains("/./") {
        return short(&path.replace("/./", "/")).into_owned().into();
    }
    short_of_plain(path).into()
}

fn short_of_plain(path: &str) -> &str {
    // `<frozen importlib._bootstrap>`, `<string>`, `<ipython-input-1-…>`: names, not paths.
    if path.starts_with('<') {
        return path;
    }
    if let Some(start) = imported(path) {
        return &path[start..];
    }
    if !path.starts_with('/') {
        return path;
    }
    let parts = path.rmatch_indices('/').map(|(at, _)| at).nth(2);
    match parts {
        Some(at) if at + 1 < path.len() => &path[at + 1..],
        _ => path,
    }
}

/// The module's dotted name if its folder is one that imports start at, else the last part of it, which is all that
/// can be known without the process's `sys.path`.
pub(crate) fn module(path: &str) -> Cow<'_, str> {
    // `<frozen importlib._bootstrap>`: the module is in the name. `<string>`, `<stdin>`: there is none.
    if let Some(frozen) = path.strip_prefix("<frozen ").and_then(|rest| rest.strip_suffix('>')) {
        return frozen.into();
    }
    if path.starts_with('<') {
        return path.into();
    }
    if let Some(start) = imported(path) {
        let module = without_ending(&path[start..]);
        return module
            .strip_suffix("/__init__")
            .unwrap_or(module)
            .replace('/', ".")
            .into();
    }
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    let above = folder.rsplit('/').next().filter(|above| !above.is_empty());
    match (without_ending(name), above) {
        ("__init__", Some(above)) => above.into(),
        ("__main__", Some(above)) => format!("{above}.__main__").into(),
        ("", _) => path.into(),
        (stem, _) => stem.into(),
    }
}

/// The name of a mapped file.
pub(crate) fn file_name(path: &str) -> &str {
    match path.rsplit_once('/') {
        Some((_, name)) if !name.is_empty() => name,
        _ => path,
    }
}

/// `_multiarray_umath` of `/…/_multiarray_umath.cpython-312-x86_64-linux-gnu.so`.
pub(crate) fn extension(path: &str) -> &str {
    let name = file_name(path);
    match name.split_once('.') {
        Some((stem, _)) if !stem.is_empty() => stem,
        _ => name,
    }
}

/// Whether it lies where packages and the standard library are installed.
pub(crate) fn is_installed(path: &str) -> bool {
    imported(path).is_some()
}

/// The folder that imports start at, and what lies in it, of a file that is installed.
pub(crate) fn split_installed(path: &str) -> Option<(&str, &str)> {
    let start = imported(path)?;
    Some((path[..start].trim_end_matches('/'), &path[start..]))
}

/// Whether it is what pip writes for a command of a package: `/venv/bin/gunicorn`.
pub(crate) fn is_launcher(path: &str) -> bool {
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    (folder == "bin" || folder.ends_with("/bin")) && !name.contains('.')
}

/// Where the part that one would import begins.
fn imported(path: &str) -> Option<usize> {
    let mut start = None;
    let mut from = 0;
    let mut folder = "";
    for part in path.split('/') {
        let end = from + part.len();
        // `lib/python3.12/` is the standard library; so is `lib/python3/` of Debian's packages, above `dist-packages`.
        let standard = is_python(part) && folder.starts_with("lib");
        if (ROOTS.contains(&part) || standard) && end + 1 < path.len() {
            start = Some(end + 1);
        }
        folder = part;
        from = end + 1;
    }
    start
}

/// `python3` or `python3.12`, perhaps with a letter behind (`python3.13t`).
fn is_python(part: &str) -> bool {
    ["python3", "pypy3"]
        .iter()
        .find_map(|name| part.strip_prefix(name))
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Whether a mapped file is CPython's executable or library: `python3.12`, `libpython3.12.so.1.0`.
pub(crate) fn is_interpreter(path: &str) -> bool {
    let file = file_name(path);
    let version = file.strip_prefix("libpython").or_else(|| file.strip_prefix("python"));
    // `python3.13t` and `python3.12d` are builds of it, `python3-config` is not.
    version.is_some_and(|version| {
        let version = version.split(".so").next().unwrap_or(version);
        let version = version.trim_end_matches(['t', 'd', 'm', 'u']);
        version.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
    })
}

fn without_ending(path: &str) -> &str {
    [".py", ".pyc", ".pyx"]
        .iter()
        .find_map(|ending| path.strip_suffix(ending))
        .unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_begins_where_imports_do() {
        assert_eq!(
            short("/venv/lib/python3.12/site-packages/numpy/core/numeric.py"),
            "numpy/core/numeric.py"
        );
        assert_eq!(short("/usr/lib/python3/dist-packages/apt/cache.py"), "apt/cache.py");
        assert_eq!(short("/usr/lib/python3.13t/json/decoder.py"), "json/decoder.py");
        assert_eq!(short("/home/me/src/shop/app/cache.py"), "shop/app/cache.py");
        assert_eq!(short("/srv/app.py"), "/srv/app.py");
        assert_eq!(short("/job/./app.py"), "/job/app.py");
        assert_eq!(short("app.py"), "app.py");
        assert_eq!(short("shop/api/v1/views.py"), "shop/api/v1/views.py");
        assert_eq!(
            short("/venv/lib/pypy3.9/site-packages/django/core/handlers/base.py"),
            "django/core/handlers/base.py"
        );
        assert_eq!(short("<frozen importlib._bootstrap>"), "<frozen importlib._bootstrap>");
        assert_eq!(short(""), "");
        assert_eq!(short("////"), "//");
    }

    #[test]
    fn a_module_has_its_dotted_name() {
        assert_eq!(
            module("/v/lib/python3.12/site-packages/numpy/core/numeric.py"),
            "numpy.core.numeric"
        );
        assert_eq!(module("/v/lib64/python3.9/json/__init__.py"), "json");
        assert_eq!(module("/srv/shop/cache.py"), "cache");
        assert_eq!(module("/srv/shop/__init__.py"), "shop");
        assert_eq!(module("/srv/shop/__main__.py"), "shop.__main__");
        assert_eq!(module("<frozen importlib._bootstrap>"), "importlib._bootstrap");
        assert_eq!(module("<string>"), "<string>");
        assert_eq!(module("/srv/.py"), "/srv/.py");
    }

    #[test]
    fn an_interpreter_is_told_by_its_file() {
        for path in [
            "/usr/bin/python3.12",
            "/x/python",
            "/usr/bin/python3",
            "/usr/bin/python3.13t",
            "/usr/lib/libpython3.12.so.1.0",
            "/usr/lib/libpython3.7m.so.1.0",
        ] {
            assert!(is_interpreter(path), "{path}");
        }
        for path in [
            "/usr/bin/python3-config",
            "/srv/pythonic.so",
            "/x/libpythonnet.so",
            "",
            "[vdso]",
        ] {
            assert!(!is_interpreter(path), "{path}");
        }
    }

    #[test]
    fn an_extension_is_its_file_without_endings() {
        assert_eq!(
            extension("/x/_multiarray_umath.cpython-312-x86_64-linux-gnu.so"),
            "_multiarray_umath"
        );
        assert_eq!(extension("/x/libfoo.so.6"), "libfoo");
        assert_eq!(extension("[vdso]"), "[vdso]");
        assert_eq!(extension("/x/.so"), ".so");
    }
}
