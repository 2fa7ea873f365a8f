//! Taking CPUs away, and giving them back.

use std::{fs, io, path::PathBuf};

/// A CPU that is brought back when this is dropped, whatever happened meanwhile.
#[derive(Debug)]
pub struct Switch {
    file: PathBuf,
}

impl Switch {
    /// The switch of a CPU, if it has one that we may use. CPU 0 has none, and a machine may have no others.
    pub fn of(cpu: u32) -> Option<Self> {
        let file = PathBuf::from(format!("/sys/devices/system/cpu/cpu{cpu}/online"));
        // Writing what it says already tells whether it may be written.
        let online = fs::read_to_string(&file).ok().filter(|text| text.trim() == "1")?;
        fs::write(&file, online).ok()?;
        Some(Self { file })
    }

    pub fn turn(&self, on: bool) -> io::Result<()> {
        fs::write(&self.file, if on { "1" } else { "0" })
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        if let Err(error) = self.turn(true) {
            eprintln!("cannot bring {} back: {error}", self.file.display());
        }
    }
}
