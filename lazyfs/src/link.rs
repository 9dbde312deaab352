//! The way from the process that holds filesystems to the daemon that has the bytes: a Unix socket.
//!
//! Both sides speak [`messages`] in frames of a bounded length. Many requests may be under way at once, each under
//! its own number. Every request names the image through which it is made, so a daemon needs no memory of a
//! connection: one that was started anew answers what the old one was asked.

mod authorization;
mod client;
mod connection;
mod error;
mod frames;
mod image;
pub mod messages;
mod source;

pub use authorization::Authorization;
pub use client::{Link, Served};
pub use error::LinkError;
pub use frames::{
    FrameError, FrameReader, FrameWriter, MAX_REQUEST, client_frames, receive, send, server_frames,
};
pub use image::{Image, Layer};

/// Requests under way on one connection, at most: as many as there are readers that wait at once, and some.
pub const UNDER_WAY: usize = 256;
