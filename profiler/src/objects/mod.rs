//! What a Python process consists of, object by object, and who holds it: read from outside.
//!
//! Nothing of the process is stopped, written to or loaded: [`target`] finds the interpreter, [`arenas`] where it has its
//! small objects, `present` reads without a trace, `snapshot` copies them, `types` knows which are types, [`walk`] goes from the roots (`roots`) to
//! every object, with `look` saying what each refers to and takes, and [`shapes`] merging the ways. What comes of it is
//! an [`account`]; two of them make a [`growth`].
//!
//! ```text
//! target ─▶ arenas ─▶ snapshot ─▶ heap ─▶ walk ─▶ account ─▶ growth
//!                                 types ──▶ │ ◀── roots
//!                                  look ──▶ │ ──▶ shapes
//! ```
//!
//! Every word of a process's memory is an allegation. A pool is believed if its list of free blocks adds up, a type if its
//! own type is one, an object if its count of references is sane and its type says that it stands where it does. All of it
//! is bounded, in time and in memory.

pub mod account;
pub mod adders;
pub mod arenas;
pub mod census;
pub mod growth;
mod heap;
mod look;
pub mod made;
mod places;
mod present;
pub mod questions;
pub mod regions;
mod roots;
pub mod shapes;
mod snapshot;
pub mod target;
mod types;
pub mod walk;
pub mod watch;
