//! Which package a frame is of: what one would `pip install`, the standard library, or the program itself.

use std::borrow::Cow;

use super::path;
use crate::profile::{Frame, FrameKind, Profile};

/// The program's own Python.
pub(crate) const OWN: &str = "own";
pub(crate) const STDLIB: &str = "stdlib";
const CPYTHON: &str = "cpython";
const KERNEL: &str = "kernel";
const NONE: &str = "none";

pub(crate) fn package<'a>(profile: &'a Profile, frame: &Frame) -> Cow<'a, str> {
    match frame.kind {
        FrameKind::Python => {
            let file = profile.string(frame.file);
            let launcher = profile.string(frame.function) == "<module>" && path::is_launcher(file);
            if file.is_empty() {
                return NONE.into();
            }
            match of_file(file) {
                Some(package) => package,
                None if launcher => STDLIB.into(),
                // The end of a path, or one of a program that was started in its folder: whose it is, it does not say.
                None if !file.starts_with(['/', '<', '.']) => match file.split_once('/') {
                    Some((first, _)) => first.into(),
                    None => OWN.into(),
                },
                None => OWN.into(),
            }
        }
        FrameKind::Kernel => KERNEL.into(),
        FrameKind::Marker => NONE.into(),
        FrameKind::Native => {
            let file = match frame.mapping {
                Some(mapping) => profile.string(profile.mapping(mapping).path),
                None => profile.string(frame.file),
            };
            if file.is_empty() {
                return NONE.into();
            }
            if path::is_interpreter(file) {
                return CPYTHON.into();
            }
            of_file(file).unwrap_or_else(|| path::extension(file).into())
        }
    }
}

/// Whether paths are whole, so that one's own code can be told from what is installed. Folded text has their ends only.
pub(super) fn knows_whose(profile: &Profile) -> bool {
    let mut python = profile.frames().filter(|(_, frame)| frame.kind == FrameKind::Python);
    python.any(|(_, frame)| profile.string(frame.file).starts_with('/'))
}

/// Of what is installed where Python looks for it.
fn of_file(file: &str) -> Option<Cow<'_, str>> {
    if file.starts_with("<frozen ") {
        return Some(STDLIB.into());
    }
    let (before, inside) = path::split_installed(file)?;
    if !before.ends_with("-packages") {
        return Some(STDLIB.into());
    }
    let first = inside.split('/').next().unwrap_or(inside);
    // `six.py`, `_cffi_backend.cpython-312-x86_64-linux-gnu.so`; libraries that a wheel brings lie in `numpy.libs`.
    let name = match inside.contains('/') {
        true => first.strip_suffix(".libs").unwrap_or(first),
        false => first.split('.').next().unwrap_or(first),
    };
    Some(name.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_is_what_one_would_install() {
        let of = |file| of_file(file).map(Cow::into_owned);
        assert_eq!(
            of("/v/lib/python3.12/site-packages/django/db/models/query.py").as_deref(),
            Some("django")
        );
        assert_eq!(of("/v/lib/python3.12/site-packages/six.py").as_deref(), Some("six"));
        assert_eq!(
            of("/v/lib/python3.12/site-packages/numpy.libs/libopenblas.so").as_deref(),
            Some("numpy")
        );
        assert_eq!(
            of("/v/lib/python3.12/site-packages/_cffi_backend.cpython-312-x86_64-linux-gnu.so").as_deref(),
            Some("_cffi_backend")
        );
        assert_eq!(
            of("/usr/lib/python3/dist-packages/apt/cache.py").as_deref(),
            Some("apt")
        );
        assert_eq!(of("/usr/lib/python3.12/json/decoder.py").as_deref(), Some(STDLIB));
        assert_eq!(of("<frozen importlib._bootstrap>").as_deref(), Some(STDLIB));
        assert_eq!(of("/srv/shop/views.py"), None);
    }
}
