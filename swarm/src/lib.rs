//! The two protocol machines of Shoal: [`peer`] decides what one node asks of whom next, [`tracker`] decides who may
//! read from an origin and who are neighbours. Beside them lies [`hold`]: when a client may be given what is here.
//!
//! This crate is *pure*: no runtime, no sockets, no files, no clock, no randomness of its own. A driver feeds
//! events with the present [`Time`] and carries out the actions that the machine returns; production and the simulator
//! run the same code. Iteration is over ordered maps and seeded draws only, so that a seed repeats a run.

pub mod hold;
pub mod peer;
mod time;
pub mod tracker;

pub use time::Time;

/// Rounds beyond the first in which a blob is read anew. In each of them one node reads all of it: who said that the
/// digest does not match. So a liar spoils one of them at most, and four outlast three liars.
const EXTRA_ROUNDS: u32 = 4;
