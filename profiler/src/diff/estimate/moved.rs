//! Programs that lie elsewhere now.

use rustc_hash::FxHashMap;

use super::super::{blocks::Side, rows::Rows};
use crate::report::path;

/// Two checkouts of one program lie in different directories: what only one side has, and the other has under the same name
/// in a file of the same name, once, is the same.
pub fn find_moved(parts: &mut [Side; 2], rows: &Rows, notes: &mut Vec<String>) {
    let mut alone: FxHashMap<_, [Vec<u32>; 2]> = FxHashMap::default();
    for (row, key) in (0_u32..).zip(&rows.keys) {
        let side = match (parts[0].total.contains_key(&row), parts[1].total.contains_key(&row)) {
            (true, false) => 0,
            (false, true) => 1,
            _ => continue,
        };
        if key.python && !key.file.is_empty() {
            let name = (&key.function, key.line, path::file_name(&key.file));
            alone.entry(name).or_default()[side].push(row);
        }
    }
    let mut moved = 0;
    for sides in alone.values() {
        if let ([before], [after]) = (&*sides[0], &*sides[1]) {
            let part = &mut parts[0];
            for values in [&mut part.own, &mut part.total] {
                if let Some(found) = values.remove(before) {
                    values.insert(*after, found);
                }
            }
            for variances in [&mut part.exactness.own, &mut part.exactness.total] {
                if let Some(found) = variances.remove(before) {
                    variances.insert(*after, found);
                }
            }
            moved += 1;
        }
    }
    if moved > 0 {
        notes.push(format!(
            "the files of {moved} rows lie in other directories: they are the same by name"
        ));
    }
}
