//! The manual: `profiler man`, one page for each command, as roff for `man -l -` and for packages.

use std::{
    io::{self, Write},
    path::Path,
};

use clap::CommandFactory as _;
use clap_mangen::Man;

use super::Cli;

/// Writes the page of `command`, or of the program itself.
pub fn write(command: Option<&str>, out: &mut dyn Write) -> io::Result<()> {
    let mut root = Cli::command();
    root.build();
    let page = match command {
        None => root,
        Some(wanted) => root
            .get_subcommands()
            .find(|command| command.get_name() == wanted)
            .cloned()
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("there is no command {wanted}")))?,
    };
    Man::new(page)
        .section("1")
        .source(concat!("profiler ", env!("CARGO_PKG_VERSION")))
        .manual("profiler")
        .render(&mut &mut *out)
}

/// Writes all pages into `directory`: `profiler.1`, `profiler-record.1` and so on.
pub fn write_all(directory: &Path) -> io::Result<()> {
    let mut root = Cli::command();
    root.build();
    write(None, &mut file(directory, "profiler")?)?;
    // `help` is clap's, and has nothing to say.
    for command in root.get_subcommands().filter(|command| command.get_name() != "help") {
        let name = format!("profiler-{}", command.get_name());
        write(Some(command.get_name()), &mut file(directory, &name)?)?;
    }
    Ok(())
}

fn file(directory: &Path, name: &str) -> io::Result<std::fs::File> {
    std::fs::File::create(directory.join(format!("{name}.1")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_and_an_unknown_one_is_named() {
        let folder = tempfile::tempdir().unwrap();
        write_all(folder.path()).unwrap();
        for command in Cli::command()
            .get_subcommands()
            .filter(|command| !command.is_hide_set())
        {
            let page = folder.path().join(format!("profiler-{}.1", command.get_name()));
            let text = std::fs::read_to_string(&page).unwrap();
            assert!(text.contains(".SH NAME"), "{}: {text}", page.display());
        }
        let all = std::fs::read_to_string(folder.path().join("profiler.1")).unwrap();
        assert!(all.contains("Exit status:"), "{all}");
        let error = write(Some("nosuch"), &mut Vec::new()).unwrap_err();
        assert_eq!(error.to_string(), "there is no command nosuch");
    }
}
