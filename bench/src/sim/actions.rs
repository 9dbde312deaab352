//! Events go into a node's machine, what it asks for is done.

use std::time::Duration;

use shoal_proto::{ChunkIndex, ChunkValue, SwarmId};
use shoal_swarm::hold;
use shoal_swarm::peer::{PeerAction, PeerEvent};

use super::arguments::Rule;
use super::event::Event;
use super::image::BlobId;
use super::node::{Number, number_of};
use super::queue::Nanos;
use super::topology::nanos;
use super::world::{World, attestation};

impl World {
    pub(super) fn handle(&mut self, number: Number, event: PeerEvent) {
        let now = self.now();
        self.nodes[number as usize].machine.handle(now, event);
    }

    pub(super) fn feed(&mut self, number: Number, event: PeerEvent) {
        if self.nodes[number as usize].alive {
            self.handle(number, event);
            self.drain(number);
        }
    }

    pub(super) fn drain(&mut self, number: Number) {
        while let Some(action) = self.nodes[number as usize].machine.poll_action() {
            self.act(number, action);
        }
        let now = self.queue.now;
        let node = &mut self.nodes[number as usize];
        let Some(next) = node.machine.next_timeout() else { return };
        let next = nanos(Duration::from(next)).max(now);
        // One tick is enough: when it comes, the next one is planned.
        if node.tick.is_none_or(|known| known > next) {
            node.tick = Some(next);
            self.queue.at(next, Event::Tick(number));
        }
    }

    pub(super) fn tick(&mut self, number: Number) {
        let now = self.queue.now;
        let node = &mut self.nodes[number as usize];
        if node.tick != Some(now) {
            return;
        }
        node.tick = None;
        self.feed(number, PeerEvent::Tick);
    }

    fn act(&mut self, number: Number, action: PeerAction) {
        match action {
            PeerAction::ToTracker(message) => self.tell_tracker(number, message),
            PeerAction::Connect(info) => {
                let other = number_of(&info.node);
                let round_trip = 2 * self.latency(number, other);
                self.queue.after(round_trip, Event::Link(number, other));
            }
            PeerAction::Disconnect(other) => self.disconnect(number, number_of(&other)),
            PeerAction::ToPeer { to, message } => {
                let to = number_of(&to);
                if self.is_still_linked(number, to) {
                    let message = Event::Message { from: number, to, message };
                    self.queue.after(self.latency(number, to), message);
                }
            }
            PeerAction::Fetch { request, from, swarm, index, want } => {
                self.fetch(number, number_of(&from), request, &swarm, index, want);
            }
            PeerAction::Cancel { request } => self.cancel(number, request),
            PeerAction::FetchOrigin(lease) => self.read_origin(number, lease),
            PeerAction::CancelOrigin { token, .. } => self.cancel_read(number, token),
            PeerAction::Whole { swarm } => self.whole(number, swarm),
            PeerAction::NewRound { old, .. } => self.discard(number, &old),
            PeerAction::Failed { swarm, why } => {
                self.meter.violation(format!("node {number} failed blob {}: {why}", self.image.id(&swarm)));
            }
            PeerAction::Shunned(other) => self.meter.shunned(number_of(&other)),
        }
    }

    /// All chunks are there: the digest decides.
    fn whole(&mut self, number: Number, swarm: SwarmId) {
        let blob = self.image.id(&swarm);
        let signer = self.nodes[number as usize].info.node;
        let trusts_all = !self.rule(Rule::Verification);
        let event = if trusts_all || self.nodes[number as usize].copies[blob].is_right() {
            PeerEvent::Verified(attestation(&swarm, signer))
        } else {
            PeerEvent::DigestMismatch { swarm }
        };
        // The rest was hashed as it came.
        let last = self.image.len_of(blob, self.image.blobs[blob].layout.count().saturating_sub(1));
        let cost = self.cost_of(last);
        if matches!(event, PeerEvent::Verified(_)) {
            self.completed(number, blob, self.queue.now + cost);
        }
        self.queue.at(self.queue.now + cost, Event::Peer(number, Box::new(event)));
    }

    fn completed(&mut self, number: Number, blob: BlobId, at: Nanos) {
        let node = &mut self.nodes[number as usize];
        let awaited = node.is_awaited();
        node.copies[blob].done = true;
        if node.copies[blob].asked.is_some() {
            node.first_byte.get_or_insert(at);
        }
        if node.copies.iter().all(|copy| copy.done) {
            node.finished.get_or_insert(at);
            self.awaited -= usize::from(awaited);
            self.meter.finished(at);
        } else {
            self.read_next_layer(number);
        }
    }

    fn discard(&mut self, number: Number, swarm: &SwarmId) {
        let blob = self.image.id(swarm);
        let bytes = |index: ChunkIndex| self.image.len_of(blob, index.0);
        let copy = &mut self.nodes[number as usize].copies[blob];
        let lost: u64 = copy.held.iter().map(bytes).sum();
        copy.clear();
        self.meter.discarded += lost;
    }

    /// A chunk is written; false when it was there.
    pub(super) fn keep(&mut self, number: Number, blob: BlobId, chunk: u32, value: ChunkValue) -> bool {
        let truth = self.image.truth(blob, chunk);
        let now = self.queue.now;
        let node = &mut self.nodes[number as usize];
        if chunk == 0 {
            node.first_chunk.get_or_insert(now);
        }
        let new = node.copies[blob].insert(chunk, value, truth);
        self.give(number, blob);
        new
    }

    /// Gives the client the first byte of a layer, if it has none and the rule of the mirror allows it. Says how long it
    /// has waited where it does not.
    fn give(&mut self, number: Number, blob: BlobId) -> Option<Duration> {
        let now = self.queue.now;
        let node = &mut self.nodes[number as usize];
        let copy = &node.copies[blob];
        let (Some(asked), Some(began), None) = (copy.asked, node.began, node.first_byte) else { return None };
        let since = |at: Nanos| Duration::from_nanos(now - at);
        let (have, all) = (copy.held.count(), copy.held.len());
        // The last chunk waits for the digest in any case.
        let streamable = all > 1 && copy.held.contains(ChunkIndex(0));
        if streamable && !hold::is_held(since(asked), hold::remaining(since(began), have, all)) {
            node.first_byte = Some(now);
            return None;
        }
        Some(since(asked))
    }

    /// The hold of a layer that the client waits for may be over.
    pub(super) fn look_at_hold(&mut self, number: Number, blob: BlobId) {
        if let Some(waited) = self.give(number, blob)
            && self.nodes[number as usize].is_awaited()
        {
            self.queue.after(nanos(hold::look_again(waited)), Event::Hold { node: number, blob });
        }
    }
}
