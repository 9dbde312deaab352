//! The origin, and what is read from it under leases.

use std::collections::BTreeSet;
use std::time::Duration;

use shoal_proto::message::{Lease, LeaseFailure};
use shoal_proto::{ChunkIndex, Entry, LeaseToken, SignedEntry};
use shoal_swarm::peer::PeerEvent;

use super::event::{Event, Ticket};
use super::flows::FlowId;
use super::image::BlobId;
use super::node::{Manner, Number};
use super::topology::nanos;
use super::world::{Cargo, World};

/// What a throttled origin asks for.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// How the registry fares.
#[derive(Debug, Default)]
pub(super) struct Origin {
    /// It answers 429.
    pub(super) throttled: bool,
    /// It goes down once it has sent every chunk.
    pub(super) sends_once: bool,
    /// Chunks that came from it.
    pub(super) delivered: BTreeSet<(BlobId, u32)>,
    /// Content bytes that it sent, and GETs that it answered.
    pub(super) sent: u64,
    pub(super) gets: u64,
    /// GETs that came while it answered 429.
    pub(super) refused: u64,
}

/// A ranged GET under a lease.
#[derive(Debug)]
pub(super) struct Read {
    ticket: Ticket,
    node: Number,
    pub(super) lease: Lease,
    blob: BlobId,
    /// The chunk that flows, or flows next; and the first one that is not checked yet.
    next: u32,
    unchecked: u32,
    flow: Option<FlowId>,
}

impl World {
    pub(super) fn read_origin(&mut self, node: Number, lease: Lease) {
        let slot = self.reads.vacant_key();
        let ticket = self.ticket(slot);
        let (blob, next) = (self.image.id(&lease.swarm), lease.chunks.start);
        self.reads.insert(Read { ticket, node, lease, blob, next, unchecked: next, flow: None });
        self.nodes[node as usize].reads.push(slot);
        self.queue.after(nanos(self.arguments.origin_latency), Event::OriginAnswers(ticket));
    }

    fn read(&mut self, ticket: Ticket) -> Option<&mut Read> {
        self.reads.get_mut(ticket.slot).filter(|read| read.ticket == ticket)
    }

    fn end_read(&mut self, slot: usize) -> Read {
        let read = self.reads.remove(slot);
        self.nodes[read.node as usize].reads.retain(|other| *other != slot);
        if let Some(flow) = read.flow {
            let bytes = self.stop_flow(flow);
            self.origin_delivered(bytes);
            self.meter.wasted += bytes;
        }
        let in_vain = (read.unchecked..read.next).map(|chunk| self.image.len_of(read.blob, chunk));
        self.meter.wasted += in_vain.sum::<u64>();
        read
    }

    fn origin_delivered(&mut self, bytes: u64) {
        self.origin.sent += bytes;
        self.meter.carried += bytes;
    }

    pub(super) fn origin_answers(&mut self, ticket: Ticket) {
        if self.read(ticket).is_none() {
            return;
        }
        let down = self.origin.sends_once && self.origin.delivered.len() == self.image.new_chunks();
        if self.origin.throttled {
            self.origin.refused += 1;
            self.fail_read(ticket, LeaseFailure::Throttled(RETRY_AFTER));
        } else if down {
            self.fail_read(ticket, LeaseFailure::Unreachable);
        } else {
            self.origin.gets += 1;
            self.next_origin_chunk(ticket);
        }
    }

    fn fail_read(&mut self, ticket: Ticket, why: LeaseFailure) {
        let Read { node, lease, .. } = self.end_read(ticket.slot);
        let (swarm, token) = (lease.swarm, lease.token);
        self.feed(node, PeerEvent::OriginEnded { swarm, token, result: Err(why) });
    }

    fn next_origin_chunk(&mut self, ticket: Ticket) {
        let Some(read) = self.read(ticket) else { return };
        let (node, blob, chunk) = (read.node, read.blob, read.next);
        let path = self.topology.origin_to(&self.ports[node as usize]);
        let bytes = self.image.len_of(blob, chunk);
        let flow = self.start_flow(path, bytes, Cargo::Read(ticket));
        if let Some(read) = self.read(ticket) {
            read.flow = Some(flow);
        }
    }

    /// A chunk's last byte has come; the next one follows at once.
    pub(super) fn origin_sent(&mut self, ticket: Ticket, bytes: u64) {
        self.origin_delivered(bytes);
        let Some(blob) = self.read(ticket).map(|read| read.blob) else { return };
        // The same for all, so that a short last chunk does not overtake the one before.
        let cost = self.cost_of(self.image.blobs[blob].layout.chunk_size());
        let Some(read) = self.read(ticket) else { return };
        let index = ChunkIndex(read.next);
        read.flow = None;
        read.next += 1;
        let more = read.next < read.lease.chunks.end;
        self.queue.after(cost, Event::OriginChunk(ticket, index));
        if more {
            self.next_origin_chunk(ticket);
        } else {
            self.queue.after(cost, Event::OriginEnded(ticket));
        }
    }

    /// A chunk was hashed, signed and written.
    pub(super) fn origin_chunk(&mut self, ticket: Ticket, index: ChunkIndex) {
        let Some(read) = self.read(ticket) else { return };
        read.unchecked = index.0 + 1;
        let (node, blob, token) = (read.node, read.blob, read.lease.token);
        let swarm = read.lease.swarm.clone();
        let lies = self.nodes[node as usize].manner == Manner::SignsWrongBytes;
        let value = if lies { self.image.lie(blob, index.0) } else { self.image.truth(blob, index.0) };
        let bytes = self.image.len_of(blob, index.0);
        if !self.keep(node, blob, index.0, value) {
            self.meter.wasted += bytes;
            return;
        }
        self.meter.from_origin += bytes;
        self.origin.delivered.insert((blob, index.0));
        let signer = self.nodes[node as usize].info.node;
        let entry = Entry { swarm, index, value, token, signer };
        self.feed(node, PeerEvent::OriginChunk { entry: SignedEntry::new(entry, [0; 64]) });
    }

    pub(super) fn origin_ended(&mut self, ticket: Ticket) {
        if self.read(ticket).is_none() {
            return;
        }
        let Read { node, lease, .. } = self.end_read(ticket.slot);
        let (swarm, token) = (lease.swarm, lease.token);
        self.feed(node, PeerEvent::OriginEnded { swarm, token, result: Ok(()) });
    }

    pub(super) fn cancel_read(&mut self, node: Number, token: LeaseToken) {
        let reads = &self.nodes[node as usize].reads;
        if let Some(slot) = reads.iter().copied().find(|slot| self.reads[*slot].lease.token == token) {
            self.end_read(slot);
        }
    }

    pub(super) fn end_reads(&mut self) {
        let slots: Vec<usize> = self.reads.iter().map(|(slot, _)| slot).collect();
        for slot in slots {
            self.end_read(slot);
        }
    }
}
