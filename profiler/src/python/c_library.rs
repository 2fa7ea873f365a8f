//! Which C library a CPython runs with: where a thread keeps what a pthread key stands for, the library decides.
//!
//! glibc's place has been the same for ten years, and is what is taken if nothing says musl. musl is known by its own
//! code: what `pthread_getspecific` does, which is five instructions, and says where the pointer to a thread's values
//! lies. The name of the library proves nothing: Alpine calls it `libc.musl-x86_64.so.1`, musl itself `libc.so`.

use std::path::Path;

use super::image::Image;

/// musl, as far as it decides where things are (x86-64; `struct pthread` of 1.2.2 – 1.2.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Musl {
    /// Where in a thread's own block the pointer to the values of its pthread keys lies.
    pub values: i32,
}

impl Musl {
    /// What is taken until its code has been seen. Whose the thread state is that is found there is checked each time.
    pub const USUAL: Self = Self { values: 0x80 };

    /// `struct pthread.tid`.
    pub const THREAD_NUMBER: u64 = 48;

    /// If this file is musl's library.
    pub fn of_library(image: &Image<'_>) -> Option<Self> {
        let function = image.symbol("pthread_getspecific")?;
        image.bytes_from(function.address).and_then(Self::from_code)
    }

    /// If this file is musl's library, or a static executable that musl is in.
    pub fn in_file(image: &Image<'_>) -> Option<Self> {
        if image.symbol("pthread_getspecific").is_some() || image.loader().is_some() || image.needs("") {
            return Self::of_library(image);
        }
        // Where it is stripped its code has to be looked through. There is one such place in a static CPython.
        image.code().find_map(|code| {
            let starts = code.windows(READ_SELF.len()).enumerate();
            starts
                .filter(|(_, bytes)| **bytes == READ_SELF)
                .find_map(|(at, _)| Self::from_code(code.get(at..)?))
        })
    }

    /// Whether it is worth looking, where not every file is looked at: `ld-musl-x86_64.so.1`, `libc.so`.
    pub fn may_be_called(path: Option<&Path>) -> bool {
        let name = path.and_then(|path| path.file_name()?.to_str());
        name.is_some_and(|name| name.starts_with("ld-musl-") || name.starts_with("libc."))
    }

    /// What a file says before its library is seen: by the loader it asks for, or the libraries.
    pub fn expected_by(image: &Image<'_>) -> bool {
        match image.loader() {
            Some(loader) => loader
                .rsplit(|&byte| byte == b'/')
                .next()
                .is_some_and(|name| name.starts_with(b"ld-musl-")),
            // glibc's is `libc.so.6`; what its developers' files call `libc.so` is a text for linkers.
            None => image.needs("libc.musl-") || image.needs_exactly("libc.so"),
        }
    }

    /// `mov %fs:0,%rax; mov VALUES(%rax),%rax; mov %edi,%edi; mov (%rax,%rdi,8),%rax; ret`: the body of
    /// `pthread_getspecific` (1.2.3, shared and static; it has been the same C since 0.9).
    fn from_code(code: &[u8]) -> Option<Self> {
        const REST: [u8; 7] = [0x89, 0xff, 0x48, 0x8b, 0x04, 0xf8, 0xc3];
        let code = code.strip_prefix(&READ_SELF)?;
        let (values, rest) = match code {
            [0x48, 0x8b, 0x80, a, b, c, d, rest @ ..] => (i32::from_le_bytes([*a, *b, *c, *d]), rest),
            [0x48, 0x8b, 0x40, near, rest @ ..] => (i32::from(near.cast_signed()), rest),
            _ => return None,
        };
        // It is in `struct pthread`, which has some 200 bytes.
        (rest.starts_with(&REST) && (8..512).contains(&values)).then_some(Self { values })
    }
}

/// `mov %fs:0,%rax`.
const READ_SELF: [u8; 9] = [0x64, 0x48, 0x8b, 0x04, 0x25, 0, 0, 0, 0];

#[cfg(test)]
mod tests {
    use super::super::fake_elf::FakeElf;
    use super::*;

    const FUNCTION: u64 = 0x1000;

    /// As it is in Debian's musl 1.2.3.
    fn get_specific(values: [u8; 4]) -> Vec<u8> {
        let [a, b, c, d] = values;
        let mut code = READ_SELF.to_vec();
        code.extend([0x48, 0x8b, 0x80, a, b, c, d, 0x89, 0xff, 0x48, 0x8b, 0x04, 0xf8, 0xc3]);
        code
    }

    fn found(elf: &FakeElf) -> Option<Musl> {
        Musl::in_file(&Image::parse(&elf.build()).unwrap())
    }

    #[test]
    fn musl_is_known_by_what_it_does() {
        let libc = |code: Vec<u8>| {
            let elf = FakeElf::default().section(".text", FUNCTION, code);
            found(&elf.symbol("pthread_getspecific", FUNCTION, 24))
        };
        assert_eq!(libc(get_specific([0x80, 0, 0, 0])), Some(Musl::USUAL));
        assert_eq!(libc(get_specific([0x88, 0, 0, 0])), Some(Musl { values: 0x88 }));
        assert_eq!(
            libc(get_specific([0, 0, 0, 0x80])),
            None,
            "no place in a thread's block"
        );
        // glibc's begins otherwise.
        assert_eq!(libc(b"\xf3\x0f\x1e\xfa\x83\xff\x1f\x77\x30".to_vec()), None);
    }

    #[test]
    fn a_static_executable_has_it_in_itself() {
        let code = [vec![0x90; 7], READ_SELF.to_vec(), get_specific([0x80, 0, 0, 0])].concat();
        let elf = FakeElf::default().section(".text", FUNCTION, code);
        assert_eq!(found(&elf), Some(Musl::USUAL));
        assert_eq!(found(&elf.needs("libc.so.6")), None, "it has another one");
    }

    #[test]
    fn a_file_says_which_it_expects() {
        let expects = |elf: FakeElf| Musl::expected_by(&Image::parse(&elf.build()).unwrap());
        assert!(expects(FakeElf::default().needs("libc.musl-x86_64.so.1")));
        assert!(expects(FakeElf::default().needs("libc.so")));
        assert!(!expects(FakeElf::default().needs("libc.so.6")));
        assert!(!expects(FakeElf::default()));
    }

    proptest::proptest! {
        #[test]
        fn no_code_panics(bytes: Vec<u8>, before in 0..30_usize) {
            let _ = Musl::from_code(&bytes);
            let code = [vec![0; before], READ_SELF.to_vec(), bytes].concat();
            found(&FakeElf::default().section(".text", FUNCTION, code));
        }
    }
}
