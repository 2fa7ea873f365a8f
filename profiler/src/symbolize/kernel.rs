//! Functions of the running kernel, by `/proc/kallsyms`.
//!
//! That is five megabytes of text, made anew by the kernel at each reading: some 0.1 s. A recording that is cut into windows
//! meets kernel addresses in each that it has not met before, so what was read is kept. The kernel's own text stays where it
//! is until the next boot; modules and programs made at run time are believed for as long as the same are loaded.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read as _},
};

use super::{Symbol, loaded::Loaded};

/// The kernel has the upper half of the addresses, on every 64-bit architecture this runs on.
const FIRST_ADDRESS: u64 = 1 << 63;

/// kallsyms has no sizes, so the last symbol before a hole seems to reach across it. No function is longer than this.
const MOST_FUNCTION_BYTES: u64 = 1 << 20;

/// No more is read: ten times what a kernel with everything built in has.
const MOST_BYTES: u64 = 256 << 20;

const KALLSYMS: &str = "/proc/kallsyms";

/// Whether it is the kernel's own code, which stays where it is until the next boot. Modules, and programs made at run
/// time, lie above it (Documentation/arch/x86/x86_64/mm.rst), and come and go.
pub fn is_kernel_text(address: u64) -> bool {
    (0xffff_ffff_8000_0000..0xffff_ffff_c000_0000).contains(&address)
}

/// What is known of it.
#[derive(Debug, Default)]
pub(super) struct Kernel {
    functions: Option<Functions>,
    /// What was loaded into the kernel before they were read; `None` if that is not known.
    loaded: Option<Loaded>,
    /// How often they were read.
    readings: u64,
}

impl Kernel {
    /// Names kernel addresses; beside the names, why all are missing.
    pub(super) fn symbolize(&mut self, addresses: &[u64]) -> (Vec<Vec<Symbol>>, Option<String>) {
        if addresses.is_empty() {
            return (Vec::new(), None);
        }
        let functions = match self.functions(addresses) {
            Ok(functions) => functions,
            Err(error) => {
                let warning = format!("no kernel symbols: failed to read {KALLSYMS}: {error}");
                return (vec![Vec::new(); addresses.len()], Some(warning));
            }
        };
        let names = addresses.iter().map(|&address| functions.find(address));
        let symbols = names.map(|name| name.map(symbol).into_iter().collect()).collect();
        // With kptr_restrict 1 the addresses read as 0 without CAP_SYSLOG, with 2 for everybody.
        let warning = functions.list.is_empty().then(|| {
            "no kernel symbols: /proc/kallsyms hides its addresses; run as root or with CAP_SYSLOG, and with the sysctl kernel.kptr_restrict at 0 or 1".to_owned()
        });
        (symbols, warning)
    }

    /// The functions by which these addresses can be named: those that are known, if they still hold.
    fn functions(&mut self, addresses: &[u64]) -> io::Result<&Functions> {
        let comes_and_goes = |&address: &u64| address >= FIRST_ADDRESS && !is_kernel_text(address);
        let holds = match &self.functions {
            // Nothing was to be seen, which may change.
            Some(functions) if functions.list.is_empty() => false,
            Some(_) if addresses.iter().any(comes_and_goes) => {
                let now = Loaded::now();
                now.is_some() && now == self.loaded
            }
            Some(_) => true,
            None => false,
        };
        let functions = match self.functions.take().filter(|_| holds) {
            Some(functions) => functions,
            None => {
                // First: what is loaded while it is read makes a difference the next time.
                self.loaded = Loaded::now();
                self.readings += 1;
                Functions::parse(BufReader::with_capacity(
                    1 << 16,
                    File::open(KALLSYMS)?.take(MOST_BYTES),
                ))?
            }
        };
        Ok(self.functions.insert(functions))
    }
}

fn symbol(name: &str) -> Symbol {
    Symbol {
        function: name.to_owned(),
        file: None,
        line: None,
        inlined: false,
        extent: None,
    }
}

/// Functions by address.
#[derive(Debug, Default, PartialEq, Eq)]
struct Functions {
    /// Where each begins, and where its name lies in `names`. In order; of several at an address, the first.
    list: Vec<(u64, u32, u32)>,
    names: String,
}

impl Functions {
    /// `ffffffff81000000 T _text`, and of a module its name behind that.
    fn parse(mut text: impl BufRead) -> io::Result<Self> {
        let mut functions = Self::default();
        let mut line = Vec::new();
        while text.read_until(b'\n', &mut line)? > 0 {
            functions.add(&String::from_utf8_lossy(&line));
            line.clear();
        }
        // As good as in order already.
        functions.list.sort_by_key(|&(start, ..)| start);
        functions.list.dedup_by_key(|(start, ..)| *start);
        functions.list.shrink_to_fit();
        functions.names.shrink_to_fit();
        Ok(functions)
    }

    fn add(&mut self, line: &str) {
        let mut words = line.split_ascii_whitespace();
        let (Some(start), Some("t" | "T" | "w" | "W"), Some(name)) = (words.next(), words.next(), words.next()) else {
            return;
        };
        let (Ok(start), Ok(from)) = (u64::from_str_radix(start, 16), u32::try_from(self.names.len())) else {
            return;
        };
        if start == 0 {
            return;
        }
        self.names.push_str(name);
        if let Ok(to) = u32::try_from(self.names.len()) {
            self.list.push((start, from, to));
        }
    }

    fn find(&self, address: u64) -> Option<&str> {
        let after = self.list.partition_point(|&(start, ..)| start <= address);
        let &(start, from, to) = self.list[..after].last()?;
        let is_inside = address >= FIRST_ADDRESS && address - start < MOST_FUNCTION_BYTES;
        is_inside.then(|| self.names.get(from as usize..to as usize))?
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;

    fn address_of(name: &str) -> u64 {
        let text = fs::read_to_string(KALLSYMS).expect("kallsyms");
        let line = text
            .lines()
            .find(|line| line.split_ascii_whitespace().nth(2) == Some(name))
            .expect("symbol");
        u64::from_str_radix(line.split_ascii_whitespace().next().expect("address"), 16).expect("hex")
    }

    #[test]
    fn a_kernel_function_is_named_and_other_addresses_are_not() {
        let address = address_of("vfs_read");
        let mut kernel = Kernel::default();
        let (symbols, warning) = kernel.symbolize(&[address + 1, 0x1000, FIRST_ADDRESS, u64::MAX - 0x1000]);
        if address == 0 {
            assert!(symbols.iter().all(Vec::is_empty));
            assert!(warning.expect("a warning").contains("kptr_restrict"));
            return;
        }
        assert_eq!(warning, None);
        assert_eq!(symbols, [vec![symbol("vfs_read")], vec![], vec![], vec![]]);
    }

    #[test]
    fn the_kernels_own_functions_are_read_once_and_those_of_programs_when_others_are_loaded() {
        let [read, write] = ["vfs_read", "vfs_write"].map(address_of);
        if read == 0 {
            return;
        }
        let mut kernel = Kernel::default();
        assert_eq!(kernel.symbolize(&[read]).0, [[symbol("vfs_read")]]);
        assert_eq!(kernel.symbolize(&[write]).0, [[symbol("vfs_write")]]);
        assert_eq!(kernel.readings, 1);

        let above = 0xffff_ffff_c000_0000 | 0x1234;
        kernel.loaded = None;
        let (symbols, _) = kernel.symbolize(&[write, above]);
        assert_eq!((&symbols[0], kernel.readings), (&vec![symbol("vfs_write")], 2));
        kernel.loaded = Some(Loaded::of(vec![u32::MAX], ""));
        kernel.symbolize(&[above]);
        assert_eq!(kernel.readings, 3);
    }

    #[test]
    fn of_several_names_at_an_address_the_first_is_told_and_data_is_none() {
        let text = "ffffffff81000010 T b\nffffffff81000000 t a\nffffffff81000010 T c\n\
                    ffffffff81000018 D data\nffffffffc0001000 t d\t[module]\n0000000000000000 T hidden\nnothing\n";
        let functions = Functions::parse(text.as_bytes()).unwrap();
        let name = |address| functions.find(address);
        assert_eq!(name(0xffff_ffff_8100_0001), Some("a"));
        assert_eq!(name(0xffff_ffff_8100_0020), Some("b"));
        assert_eq!(name(0xffff_ffff_c000_1001), Some("d"));
        assert_eq!(name(0xffff_ffff_c020_0000), None, "it is too far");
        assert_eq!(name(0xffff_ffff_80ff_ffff), None);
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in proptest::collection::vec(any::<u8>(), 0..300), address: u64) {
            let functions = Functions::parse(&text[..]).unwrap();
            functions.find(address);
        }
    }
}
