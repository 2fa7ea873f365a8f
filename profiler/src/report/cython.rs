//! Names of functions that Cython compiled, as Python people write them.
//!
//! `__pyx_pw_6uvloop_4loop_4Loop_27run_forever` is `uvloop.loop.Loop.run_forever`: scopes with their lengths, and for all
//! but the first function of a scope a number that counts them (`Cython/Compiler/Naming.py`, `Symtab.Scope.mangle` and
//! `next_id` of Cython 3.0). A number before the name can be taken for a length now and then: where two readings are
//! possible, the name stays as it is.

/// What begins the names of functions: wrapper, implementation, `cdef` function, body of a generator.
const WRAPPERS: [&str; 3] = ["__pyx_pw_", "__pyx_pf_", "__pyx_gb_"];
const CDEF: &str = "__pyx_f_";

/// The readable name, if it is certain. `module` is the last part of the extension module's name.
pub(super) fn readable(function: &str, module: &str) -> Option<String> {
    // gcc's `.isra.0`, and `.cold`.
    let plain = function.split('.').next().unwrap_or(function);
    let is_cdef = plain.starts_with(CDEF);
    let mangled = match is_cdef {
        true => plain.strip_prefix(CDEF)?,
        false => WRAPPERS.iter().find_map(|prefix| plain.strip_prefix(prefix))?,
    };
    let mut scopes = Vec::new();
    let mut rest = mangled;
    while let Some((scope, after)) = scope(rest) {
        scopes.push(scope);
        rest = after;
    }
    let counted = rest.trim_start_matches(|c: char| c.is_ascii_digit());
    let name = if is_cdef { rest } else { counted };
    let last = scopes.last()?;
    // Without a number of its own, what was read as the last scope may be the number and the beginning of the name.
    let is_certain =
        is_cdef || counted.len() < rest.len() || *last == module || last.starts_with(|c: char| c.is_ascii_uppercase());
    let is_name = name.starts_with(|c: char| c.is_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_alphanumeric() || c == '_');
    (is_certain && is_name).then(|| {
        scopes.push(name);
        scopes.join(".")
    })
}

/// A scope with its length, `4loop_`, and what follows it.
fn scope(text: &str) -> Option<(&str, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let length: usize = text[..digits].parse().ok()?;
    let (scope, after) = text[digits..].split_at_checked(length)?;
    let is_name = scope.starts_with(|c: char| c.is_alphabetic() || c == '_')
        && scope.chars().all(|c| c.is_alphanumeric() || c == '_');
    let after = after.strip_prefix('_').filter(|after| is_name && !after.is_empty())?;
    Some((scope, after))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_of_uvloop_read_as_python() {
        let read = |name| readable(name, "loop");
        let cases = [
            (
                "__pyx_pw_6uvloop_4loop_4Loop_27run_forever",
                "uvloop.loop.Loop.run_forever",
            ),
            (
                "__pyx_pf_6uvloop_4loop_4Loop_26run_forever.isra.0",
                "uvloop.loop.Loop.run_forever",
            ),
            ("__pyx_f_6uvloop_4loop_4Loop__run", "uvloop.loop.Loop._run"),
            ("__pyx_f_6uvloop_4loop___on_idle", "uvloop.loop.__on_idle"),
            (
                "__pyx_pw_6uvloop_4loop_libuv_get_version",
                "uvloop.loop.libuv_get_version",
            ),
            ("__pyx_pw_6uvloop_4loop_4Loop_run", "uvloop.loop.Loop.run"),
        ];
        for (mangled, expected) in cases {
            assert_eq!(read(mangled).as_deref(), Some(expected), "{mangled}");
        }
    }

    #[test]
    fn what_can_be_read_in_two_ways_stays() {
        // `Loop.get_item`, the third function, or `item` inside of `get`.
        for name in [
            "__pyx_pw_6uvloop_4loop_4Loop_3get_item",
            "__pyx_tp_dealloc_6uvloop_4loop_Loop",
            "__pyx_pw_run",
            "__pyx_pw_99999999999999999999loop_run",
            "__pyx_pw_4lö",
            "__Pyx_PyObject_Call",
            "PyObject_Call",
        ] {
            assert_eq!(readable(name, "loop"), None, "{name}");
        }
    }

    proptest! {
        #[test]
        fn no_name_makes_it_panic(name in "__pyx_(pw|f)_([0-9]{1,3}[a-zö_]{0,5}_?){0,4}") {
            let _ = readable(&name, "loop");
        }
    }
}
