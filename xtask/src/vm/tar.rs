//! Reading the tar archive that comes out of a guest's serial port: as much of the format as busybox writes (POSIX
//! ustar, names of up to 100 bytes). The guest may have crashed in the middle, so nothing in it is believed.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};

const BLOCK: usize = 512;

/// The regular files of an archive, by name without a leading `./`.
pub fn files(archive: &[u8]) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut files = BTreeMap::new();
    let mut rest = archive;
    loop {
        let (header, behind) = rest.split_at_checked(BLOCK).context("the archive is cut off")?;
        if header.iter().all(|&byte| byte == 0) {
            return Ok(files);
        }
        ensure!(is_intact(header), "the archive is damaged");
        let size = octal(&header[124..136]).context("an entry of the archive has no size")?;
        let (bytes, _) = behind.split_at_checked(size).context("the archive is cut off")?;
        // '0', or a zero in the older form, is a regular file.
        if matches!(header[156], b'0' | 0) {
            let name = String::from_utf8_lossy(text(&header[..100]));
            files.insert(name.trim_start_matches("./").to_owned(), bytes.to_vec());
        }
        rest = behind
            .get(size.next_multiple_of(BLOCK)..)
            .context("the archive is cut off")?;
    }
}

/// Whether the checksum is right: the sum of all bytes, with blanks in place of the checksum itself.
fn is_intact(header: &[u8]) -> bool {
    let place = 148..156;
    let sum: usize = header
        .iter()
        .enumerate()
        .map(|(at, &byte)| usize::from(if place.contains(&at) { b' ' } else { byte }))
        .sum();
    octal(&header[place]) == Some(sum)
}

fn octal(field: &[u8]) -> Option<usize> {
    let digits = std::str::from_utf8(text(field)).ok()?;
    usize::from_str_radix(digits.trim(), 8).ok()
}

/// A field up to the zero that ends it.
fn text(field: &[u8]) -> &[u8] {
    field.split(|&byte| byte == 0).next().unwrap_or_default()
}

/// An archive as busybox would write it.
#[cfg(test)]
pub fn of(files: &[(&str, &str)]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (name, content) in files {
        let mut header = vec![0_u8; BLOCK];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
        header[148..156].copy_from_slice(b"        ");
        header[156] = b'0';
        let sum: usize = header.iter().map(|&byte| usize::from(byte)).sum();
        header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        archive.extend(header);
        archive.extend(content.as_bytes());
        archive.resize(archive.len().next_multiple_of(BLOCK), 0);
    }
    archive.resize(archive.len() + 2 * BLOCK, 0);
    archive
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_an_archive_are_found_by_name() {
        let long = "x".repeat(700);
        let files = files(&of(&[("./rc", "0\n"), ("./empty", ""), ("./long", &long)])).unwrap();
        assert_eq!(files["rc"], b"0\n");
        assert_eq!(files["empty"], b"");
        assert_eq!(files["long"], long.as_bytes());
    }

    #[test]
    fn an_archive_cut_off_anywhere_is_an_error_and_no_panic() {
        let archive = of(&[("./a", "some text"), ("./b", "more")]);
        // Without the second block of zeros it is still whole.
        for length in 0..archive.len() - BLOCK {
            assert!(files(&archive[..length]).is_err(), "{length}");
        }
    }

    #[test]
    fn a_damaged_header_is_an_error() {
        // The last byte of the checksum's field is behind the zero that ends it.
        for at in (0..BLOCK).filter(|&at| at != 155) {
            let mut archive = of(&[("./a", "some text")]);
            archive[at] ^= 0x55;
            assert!(files(&archive).is_err(), "{at}");
        }
    }

    #[test]
    fn the_program_tar_is_understood() {
        let mut command = std::process::Command::new("tar");
        command.args([
            "-c",
            "--format=ustar",
            "-C",
            env!("CARGO_MANIFEST_DIR"),
            "./src/vm/tar.rs",
        ]);
        let Ok(output) = command.output() else { return };
        assert_eq!(
            files(&output.stdout).unwrap()["src/vm/tar.rs"],
            include_bytes!("tar.rs")
        );
    }
}
