//! ELF files small enough to write out, for tests.

/// An x86-64 ELF file under construction: sections at addresses, dynamic symbols, nothing else.
#[derive(Clone, Debug, Default)]
pub struct FakeElf {
    sections: Vec<(&'static str, u64, Vec<u8>)>,
    symbols: Vec<(&'static str, u64, u64)>,
    libraries: Vec<&'static str>,
    no_symbols: bool,
}

const SHT_PROGBITS: u32 = 1;
const SHT_STRTAB: u32 = 3;
const SHT_RELA: u32 = 4;
const SHT_DYNAMIC: u32 = 6;
const SHT_DYNSYM: u32 = 11;

impl FakeElf {
    pub fn section(mut self, name: &'static str, address: u64, bytes: impl Into<Vec<u8>>) -> Self {
        self.sections.push((name, address, bytes.into()));
        self
    }

    pub fn symbol(mut self, name: &'static str, address: u64, size: u64) -> Self {
        self.symbols.push((name, address, size));
        self
    }

    pub fn needs(mut self, library: &'static str) -> Self {
        self.libraries.push(library);
        self
    }

    /// As in a static executable that is stripped.
    pub fn without_symbols(mut self) -> Self {
        self.no_symbols = true;
        self
    }

    pub fn build(&self) -> Vec<u8> {
        let mut names = vec![0];
        let mut symbols = vec![0; 24];
        for (name, address, size) in &self.symbols {
            symbols.extend((names.len() as u32).to_le_bytes());
            // STB_GLOBAL, STT_OBJECT; any section but SHN_UNDEF.
            symbols.extend([0x11, 0, 1, 0]);
            symbols.extend(address.to_le_bytes());
            symbols.extend(size.to_le_bytes());
            names.extend(name.as_bytes());
            names.push(0);
        }
        let mut dynamic = Vec::new();
        for library in &self.libraries {
            dynamic.extend(1_u64.to_le_bytes());
            dynamic.extend((names.len() as u64).to_le_bytes());
            names.extend(library.as_bytes());
            names.push(0);
        }
        dynamic.extend([0; 16]);

        let loaded = self.sections.iter().map(|(name, address, bytes)| {
            let kind = if name.starts_with(".rela") {
                SHT_RELA
            } else {
                SHT_PROGBITS
            };
            (*name, kind, *address, bytes.as_slice(), 0)
        });
        // The section after the empty one holds the names that the dynamic sections refer to.
        let sections: Vec<(&str, u32, u64, &[u8], u32)> =
            [("", 0, 0, &[][..], 0), (".dynstr", SHT_STRTAB, 0, &names, 0)]
                .into_iter()
                .chain([
                    (
                        ".dynsym",
                        if self.no_symbols { SHT_PROGBITS } else { SHT_DYNSYM },
                        0,
                        &symbols[..],
                        1,
                    ),
                    (".dynamic", SHT_DYNAMIC, 0, &dynamic, 1),
                ])
                .chain(loaded)
                .collect();
        let mut section_names = Vec::new();
        let mut headers = Vec::new();
        let mut segments = Vec::new();
        let mut body = Vec::new();
        let body_start = 64 + 56 * self.sections.len() as u64;
        for (name, kind, address, bytes, link) in &sections {
            let offset = body_start + body.len() as u64;
            headers.push((
                section_names.len() as u32,
                *kind,
                *address,
                offset,
                bytes.len() as u64,
                *link,
            ));
            section_names.extend(name.as_bytes());
            section_names.push(0);
            if *address != 0 {
                segments.push((*address, offset, bytes.len() as u64));
            }
            body.extend_from_slice(bytes);
        }
        headers.push((
            0,
            SHT_STRTAB,
            0,
            body_start + body.len() as u64,
            section_names.len() as u64,
            0,
        ));
        body.extend(section_names);

        let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x03\0\x3e\0\x01\0\0\0".to_vec();
        for word in [0, 64, body_start + body.len() as u64] {
            elf.extend(word.to_le_bytes());
        }
        elf.extend([0; 4]);
        for half in [64, 56, segments.len(), 64, headers.len(), headers.len() - 1] {
            elf.extend((half as u16).to_le_bytes());
        }
        for (address, offset, size) in segments {
            elf.extend([1, 0, 0, 0, 7, 0, 0, 0]);
            for word in [offset, address, address, size, size, 1] {
                elf.extend(word.to_le_bytes());
            }
        }
        elf.extend(body);
        for (name, kind, address, offset, size, link) in headers {
            elf.extend(name.to_le_bytes());
            elf.extend(kind.to_le_bytes());
            for word in [0, address, offset, size] {
                elf.extend(word.to_le_bytes());
            }
            elf.extend(link.to_le_bytes());
            elf.extend([0; 4 + 8 + 8]);
        }
        elf
    }
}
