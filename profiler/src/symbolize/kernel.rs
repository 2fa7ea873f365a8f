//! Functions of the running kernel.

use std::panic::{AssertUnwindSafe, catch_unwind};

use blazesym::MaybeDefault;
use blazesym::symbolize::source::{Kernel, Source};
use blazesym::symbolize::{Input, Reason, Symbolized, Symbolizer};

use super::Symbol;
use super::native::functions;

/// The kernel has the upper half of the addresses, on every 64-bit architecture this runs on.
const FIRST_ADDRESS: u64 = 1 << 63;

/// kallsyms has no sizes, so the last symbol before a hole seems to reach across it. No function is longer than this.
const MOST_FUNCTION_BYTES: usize = 1 << 20;

/// Names kernel addresses; beside the names, why all are missing.
pub(super) fn symbolize(addresses: &[u64]) -> (Vec<Vec<Symbol>>, Option<String>) {
    let mut symbols = vec![Vec::new(); addresses.len()];
    if addresses.is_empty() {
        return (symbols, None);
    }
    let mut hidden = false;
    let look_up = || {
        let symbolizer = Symbolizer::builder()
            .enable_code_info(false)
            .enable_inlined_fns(false)
            .enable_demangling(false)
            .build();
        let source = Kernel {
            vmlinux: MaybeDefault::None,
            debug_syms: false,
            ..Kernel::default()
        };
        let results = symbolizer
            .symbolize(&Source::Kernel(source), Input::AbsAddr(addresses))
            .map_err(|error| format!("no kernel symbols: {error}"))?;
        for ((symbols, &address), result) in symbols.iter_mut().zip(addresses).zip(&results) {
            match result {
                Symbolized::Sym(sym) if address >= FIRST_ADDRESS && sym.offset < MOST_FUNCTION_BYTES => {
                    *symbols = functions(sym);
                }
                Symbolized::Unknown(Reason::MissingSyms) => hidden = true,
                Symbolized::Sym(_) | Symbolized::Unknown(_) => {}
            }
        }
        Ok(())
    };
    let outcome = catch_unwind(AssertUnwindSafe(look_up)).unwrap_or_else(|_| Err("no kernel symbols".to_owned()));
    let warning = match outcome {
        Err(error) => Some(error),
        // With kptr_restrict 1 the addresses read as 0 without CAP_SYSLOG, with 2 for everybody.
        Ok(()) if hidden => {
            Some("no kernel symbols: /proc/kallsyms hides its addresses; run as root or with CAP_SYSLOG, and with the sysctl kernel.kptr_restrict at 0 or 1".into())
        }
        Ok(()) => None,
    };
    (symbols, warning)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_kernel_function_is_named_and_other_addresses_are_not() {
        let text = fs::read_to_string("/proc/kallsyms").expect("kallsyms");
        let address_of = |name: &str| {
            let line = text
                .lines()
                .find(|line| line.split_ascii_whitespace().nth(2) == Some(name))
                .expect("symbol");
            u64::from_str_radix(line.split_ascii_whitespace().next().expect("address"), 16).expect("hex")
        };
        let address = address_of("vfs_read");
        let (symbols, warning) = symbolize(&[address + 1, 0x1000, FIRST_ADDRESS, u64::MAX - 0x1000]);
        if address == 0 {
            assert!(symbols.iter().all(Vec::is_empty));
            assert!(warning.expect("a warning").contains("kptr_restrict"));
            return;
        }
        assert_eq!(warning, None);
        let expected = Symbol {
            function: "vfs_read".into(),
            file: None,
            line: None,
            inlined: false,
        };
        assert_eq!(symbols, [vec![expected], vec![], vec![], vec![]]);
    }
}
