//! Inflate that stops at block boundaries and starts in the middle of a byte.
//!
//! The safe interface of `zlib-rs` tells neither where in a byte a block ends nor lets one begin there, so this
//! module calls its C interface (Rust code underneath). It is the only module of the crate with `unsafe`: each
//! call gets a stream that this module initialised and never moved, and buffers that live for the call.
#![allow(unsafe_code, reason = "bit positions are only in zlib-rs's C interface")]

use libz_rs_sys as z;

/// Bytes that a deflate match reaches back at most (RFC 1951, section 2).
pub(crate) const WINDOW: usize = 32 << 10;

/// What the compressed bytes begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// Bare deflate blocks (RFC 1951).
    Raw,
    /// A gzip member's header (RFC 1952); its checksum and length are verified at its end.
    Gzip,
}

impl Framing {
    fn window_bits(self) -> i32 {
        match self {
            Self::Raw => -15,
            Self::Gzip => 15 + 16,
        }
    }
}

/// Where a step stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// All input is used, or the output is full.
    Buffers,
    /// A block ended here and another one of the same member follows. The `bits` (0 to 7) high bits of the last
    /// byte consumed belong to that next block.
    Boundary { bits: u8 },
    /// The member, or the raw stream, ended.
    End,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    pub(crate) consumed: usize,
    pub(crate) produced: usize,
    pub(crate) stop: Stop,
}

/// The bytes are not valid gzip or deflate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not valid deflate data")]
pub(crate) struct Corrupt;

pub(crate) struct Inflate(Box<z::z_stream>);

// SAFETY: the stream's state is owned by the box alone, and zlib-rs keeps nothing per thread.
unsafe impl Send for Inflate {}

impl std::fmt::Debug for Inflate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Inflate")
    }
}

impl Inflate {
    pub(crate) fn new(framing: Framing) -> Self {
        let mut stream = Box::<z::z_stream>::default();
        let size = i32::try_from(size_of::<z::z_stream>()).unwrap_or_default();
        // SAFETY: the stream is valid, its allocator is the default; the version is a static C string.
        let code =
            unsafe { z::inflateInit2_(&raw mut *stream, framing.window_bits(), z::zlibVersion(), size) };
        // Cannot fail but for lack of memory; every later call on it would return an error then.
        debug_assert_eq!(code, z::Z_OK);
        Self(stream)
    }

    /// Forgets everything and begins anew.
    pub(crate) fn reset(&mut self, framing: Framing) {
        // SAFETY: initialised in `new`.
        unsafe { z::inflateReset2(&raw mut *self.0, framing.window_bits()) };
    }

    /// After [`reset`](Self::reset) to [`Framing::Raw`]: begins with the `bits` high bits of `byte`, and with
    /// `window` as what came before.
    pub(crate) fn prime(&mut self, bits: u8, byte: u8, window: &[u8]) -> Result<(), Corrupt> {
        let bits = bits.min(7);
        let value = i32::from(byte) >> (8 - i32::from(bits));
        // SAFETY: initialised in `new`.
        let primed =
            bits == 0 || unsafe { z::inflatePrime(&raw mut *self.0, i32::from(bits), value) } == z::Z_OK;
        let len = u32::try_from(window.len()).map_err(|_| Corrupt)?;
        // SAFETY: as above; the pointer and length are those of a slice.
        let set = window.is_empty()
            || unsafe { z::inflateSetDictionary(&raw mut *self.0, window.as_ptr(), len) } == z::Z_OK;
        if primed && set { Ok(()) } else { Err(Corrupt) }
    }

    /// Inflates from `input` into `output`. With `stop_at_boundary` it returns at the next block boundary.
    pub(crate) fn step(
        &mut self,
        input: &[u8],
        output: &mut [u8],
        stop_at_boundary: bool,
    ) -> Result<Step, Corrupt> {
        let stream = &mut *self.0;
        let avail_in = u32::try_from(input.len()).unwrap_or(u32::MAX);
        let avail_out = u32::try_from(output.len()).unwrap_or(u32::MAX);
        stream.next_in = input.as_ptr();
        stream.avail_in = avail_in;
        stream.next_out = output.as_mut_ptr();
        stream.avail_out = avail_out;
        let flush = if stop_at_boundary { z::Z_BLOCK } else { z::Z_NO_FLUSH };
        // SAFETY: initialised in `new`; both buffers are slices that outlive the call.
        let code = unsafe { z::inflate(&raw mut *stream, flush) };
        let consumed = (avail_in - stream.avail_in) as usize;
        let produced = (avail_out - stream.avail_out) as usize;
        stream.next_in = std::ptr::null();
        stream.next_out = std::ptr::null_mut();
        // zlib.h: data_type is the number of unused bits in the last byte taken from the input, plus 64 while
        // decoding the last block, plus 128 right after an end-of-block code (or after a member's header).
        let data_type = stream.data_type;
        let stop = match code {
            z::Z_STREAM_END => Stop::End,
            z::Z_OK if stop_at_boundary && data_type & 128 != 0 && data_type & 64 == 0 => {
                Stop::Boundary { bits: u8::try_from(data_type & 7).unwrap_or_default() }
            }
            z::Z_OK | z::Z_BUF_ERROR => Stop::Buffers,
            _ => return Err(Corrupt),
        };
        Ok(Step { consumed, produced, stop })
    }
}

impl Drop for Inflate {
    fn drop(&mut self) {
        // SAFETY: initialised in `new`, ended only here.
        unsafe { z::inflateEnd(&raw mut *self.0) };
    }
}
