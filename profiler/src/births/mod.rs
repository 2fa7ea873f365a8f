//! Which lines keep objects, drawn by hardware watchpoints (`memory --watchpoints`).
//!
//! ```text
//! first census ─▶ driver: what grows? ─▶ windows: births ─▶ followers: who dies, who stays
//!                   │                        │ stacks, by number        │
//!                   ▼                        ▼                          ▼
//!                 nothing: no register     sites (host)  ─▶ proofs ◀─ survivors ─▶ second census: where they hang
//!                 is taken                                    │
//!                                                             ▼ lines
//! ```
//!
//! `driver` is a thread of its own, since a window lasts a tenth of a millisecond. `choice` says which object is followed,
//! `pace` when the next window opens and whether there is budget for it, [`lines`] what the survivors say of lines. What
//! is shown is in `report::memory::kept`.
//!
//! That a line made an object is seen; that the object stayed is proven by its own link in the collector's lists, which is
//! cleared when it goes: an address alone is soon another object's. What grows, and how much, only censuses say.

mod choice;
pub mod driver;
pub mod lines;
mod pace;

pub use driver::{Driver, Outcome, Survivor};
