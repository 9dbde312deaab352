//! Links between nodes, and chunks that go over them.

use shoal_proto::message::ChunkRequest;
use shoal_proto::{ChunkIndex, ChunkValue, SwarmId};
use shoal_swarm::peer::{Admission, FetchOutcome, PeerEvent};

use super::arguments::Rule;
use super::event::{Event, Ticket};
use super::flows::FlowId;
use super::image::BlobId;
use super::node::{Manner, Number};
use super::queue::Nanos;
use super::world::{Cargo, World, lies};

/// How far a transfer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The request travels.
    Asked,
    Flowing(FlowId),
    /// All bytes were sent; they travel, or are being checked.
    Sent,
    /// The other side does not answer any more.
    Stuck,
}

/// A chunk that a node asked another for.
#[derive(Debug)]
pub(super) struct Transfer {
    ticket: Ticket,
    asker: Number,
    sender: Number,
    request: u64,
    chunk: ChunkRequest,
    blob: BlobId,
    want: ChunkValue,
    /// What is sent instead of what was asked for.
    wrong: Option<Box<ChunkValue>>,
    stage: Stage,
}

impl World {
    pub(super) fn link(&mut self, from: Number, to: Number) {
        let name = self.names[to as usize];
        if !self.nodes[from as usize].alive {
            return;
        }
        if !self.nodes[to as usize].alive {
            self.feed(from, PeerEvent::ConnectFailed(name));
            return;
        }
        if self.nodes[from as usize].linked.contains(&to) {
            // The other side was faster.
            return;
        }
        self.nodes[from as usize].linked.push(to);
        self.nodes[to as usize].linked.push(from);
        // The other side has the whole handshake one way later.
        let event = PeerEvent::LinkUp(self.nodes[from as usize].info.node);
        self.queue.after(self.latency(from, to), Event::Peer(to, Box::new(event)));
        self.feed(from, PeerEvent::LinkUp(name));
    }

    /// Whether a link is still there; that it was made is taken for granted.
    pub(super) fn is_still_linked(&self, node: Number, other: Number) -> bool {
        let linked = || self.nodes[node as usize].linked.contains(&other);
        debug_assert!(self.lost_a_link || linked(), "node {node} speaks without a link to {other}");
        !self.lost_a_link || linked()
    }

    pub(super) fn disconnect(&mut self, node: Number, other: Number) {
        if self.nodes[node as usize].linked.contains(&other) {
            self.link_lost(node, other);
            self.queue.after(self.latency(node, other), Event::LinkLost { node: other, other: node });
        }
    }

    /// A node learns that a link is gone.
    pub(super) fn link_lost(&mut self, node: Number, other: Number) {
        if self.nodes[node as usize].linked.contains(&other) {
            self.lost_a_link = true;
            self.nodes[node as usize].linked.retain(|linked| *linked != other);
            self.nodes[other as usize].linked.retain(|linked| *linked != node);
            let name = self.nodes[other as usize].info.node;
            self.feed(node, PeerEvent::LinkDown(name));
        }
    }

    pub(super) fn fetch(
        &mut self,
        asker: Number,
        sender: Number,
        request: u64,
        swarm: &SwarmId,
        index: ChunkIndex,
        want: ChunkValue,
    ) {
        let slot = self.transfers.vacant_key();
        let ticket = self.ticket(slot);
        let blob = self.image.id(swarm);
        let chunk = ChunkRequest { swarm: swarm.clone(), index };
        let stage = Stage::Asked;
        self.transfers.insert(Transfer {
            ticket,
            asker,
            sender,
            request,
            chunk,
            blob,
            want,
            wrong: None,
            stage,
        });
        self.nodes[asker as usize].asked.push((request, slot));
        self.queue.after(self.latency(asker, sender), Event::Request(ticket));
    }

    fn transfer(&mut self, ticket: Ticket) -> Option<&mut Transfer> {
        self.transfers.get_mut(ticket.slot).filter(|transfer| transfer.ticket == ticket)
    }

    /// Forgets a transfer.
    fn end(&mut self, slot: usize) -> Transfer {
        let transfer = self.transfers.remove(slot);
        self.nodes[transfer.asker as usize].asked.retain(|(_, other)| *other != slot);
        if matches!(transfer.stage, Stage::Flowing(_)) {
            self.nodes[transfer.sender as usize].sending.retain(|other| *other != slot);
        }
        transfer
    }

    /// A request reaches the node that is to send.
    pub(super) fn requested(&mut self, ticket: Ticket) {
        let now = self.now();
        let Some(transfer) = self.transfer(ticket) else { return };
        let (asker, sender, blob, chunk) =
            (transfer.asker, transfer.sender, transfer.blob, transfer.chunk.clone());
        if !self.nodes[sender as usize].alive {
            self.stuck(ticket.slot);
            return;
        }
        let name = self.names[asker as usize];
        let back = self.latency(asker, sender);
        match self.nodes[sender as usize].machine.admit(now, name, &chunk) {
            Admission::Busy => {
                self.meter.busy += 1;
                self.queue.after(back, Event::Refused(ticket, FetchOutcome::Busy));
            }
            Admission::NotHeld => self.queue.after(back, Event::Refused(ticket, FetchOutcome::NotHeld)),
            Admission::Serve { want } => {
                self.check_served(sender, blob, chunk.index.0, want);
                let value = self.sent_value(sender, blob, chunk.index.0, want);
                let (from, to) = (self.ports[sender as usize], self.ports[asker as usize]);
                let bytes = self.image.len_of(blob, chunk.index.0);
                let path = self.topology.between(&from, &to);
                let flow = self.start_flow(path, bytes, Cargo::Transfer(ticket));
                self.nodes[sender as usize].sending.push(ticket.slot);
                if let Some(transfer) = self.transfer(ticket) {
                    transfer.stage = Stage::Flowing(flow);
                    transfer.wrong = (value != transfer.want).then(|| Box::new(value));
                }
            }
        }
    }

    /// What a node sends that says that it has the chunk.
    fn sent_value(&self, sender: Number, blob: BlobId, chunk: u32, want: ChunkValue) -> ChunkValue {
        let node = &self.nodes[sender as usize];
        if node.manner == Manner::SendsWrongBytes {
            return self.image.lie(blob, chunk);
        }
        node.copies[blob].value(chunk, self.image.truth(blob, chunk)).unwrap_or(want)
    }

    /// No chunk is served that was not checked, and slots are kept.
    fn check_served(&mut self, sender: Number, blob: BlobId, chunk: u32, want: ChunkValue) {
        let node = &self.nodes[sender as usize];
        let truth = self.image.truth(blob, chunk);
        if !lies(node.manner) && node.copies[blob].value(chunk, truth) != Some(want) {
            self.meter.violation(format!("node {sender} served chunk {chunk} of blob {blob} unverified"));
        }
        if node.sending.len() >= self.tuning.peer.most_uploads() {
            self.meter.violation(format!("node {sender} sends more than its slots allow"));
        }
    }

    fn stuck(&mut self, slot: usize) {
        if let Some(transfer) = self.transfers.get_mut(slot) {
            transfer.stage = Stage::Stuck;
        }
    }

    pub(super) fn refused(&mut self, ticket: Ticket, outcome: FetchOutcome) {
        let Some(transfer) = self.transfer(ticket) else { return };
        let (asker, request) = (transfer.asker, transfer.request);
        self.end(ticket.slot);
        self.feed(asker, PeerEvent::Fetched { request, outcome });
    }

    /// The sender is done.
    pub(super) fn sent(&mut self, ticket: Ticket, bytes: u64) {
        let Some(transfer) = self.transfer(ticket) else { return };
        transfer.stage = Stage::Sent;
        let (asker, sender) = (transfer.asker, transfer.sender);
        self.nodes[sender as usize].sending.retain(|slot| *slot != ticket.slot);
        self.upload_ended(sender, asker);
        self.carried(sender, asker, bytes);
        let wait = self.latency(asker, sender) + self.cost_of(bytes);
        self.queue.after(wait, Event::Landed(ticket));
    }

    /// Links carried this, whatever becomes of it.
    fn carried(&mut self, from: Number, to: Number, bytes: u64) {
        self.meter.carried += bytes;
        if self.ports[from as usize].zone != self.ports[to as usize].zone {
            self.meter.cross_zone += bytes;
        }
    }

    pub(super) fn upload_ended(&mut self, node: Number, to: Number) {
        let to = self.names[to as usize];
        self.feed(node, PeerEvent::UploadEnded { to });
    }

    /// A chunk is there, and was checked.
    pub(super) fn landed(&mut self, ticket: Ticket) {
        if self.transfer(ticket).is_none() {
            return;
        }
        let Transfer { asker, request, chunk, blob, want, wrong, .. } = self.end(ticket.slot);
        let index = chunk.index.0;
        let bytes = self.image.len_of(blob, index);
        let value = wrong.map_or(want, |wrong| *wrong);
        let outcome = if value == want || !self.rule(Rule::Verification) {
            FetchOutcome::Stored
        } else {
            FetchOutcome::Mismatch
        };
        if outcome == FetchOutcome::Stored && self.keep(asker, blob, index, value) {
            self.meter.from_peers += bytes;
        } else {
            self.meter.wasted += bytes;
        }
        self.feed(asker, PeerEvent::Fetched { request, outcome });
    }

    pub(super) fn cancel(&mut self, asker: Number, request: u64) {
        let asked = &self.nodes[asker as usize].asked;
        let Some(slot) = asked.iter().find(|(number, _)| *number == request).map(|(_, slot)| *slot) else {
            return;
        };
        let told = self.latency(asker, self.transfers[slot].sender);
        self.abandon(slot, told);
    }

    /// Who asked is gone, or needs it no more; whoever sends to it notices after this time.
    pub(super) fn abandon(&mut self, slot: usize, noticed: Nanos) {
        let transfer = self.end(slot);
        match transfer.stage {
            Stage::Flowing(flow) => {
                let bytes = self.stop_flow(flow);
                self.carried(transfer.sender, transfer.asker, bytes);
                self.meter.wasted += bytes;
                self.queue.after(noticed, Event::UploadEnded { node: transfer.sender, to: transfer.asker });
            }
            Stage::Sent => self.meter.wasted += self.image.len_of(transfer.blob, transfer.chunk.index.0),
            Stage::Asked | Stage::Stuck => {}
        }
    }

    /// Who sends is gone, and with it the list of what it sends; whoever asked waits until it asks elsewhere.
    pub(super) fn sender_died(&mut self, slot: usize) {
        if let Some(Transfer { stage: Stage::Flowing(flow), sender, asker, .. }) = self.transfers.get(slot) {
            let (flow, sender, asker) = (*flow, *sender, *asker);
            let bytes = self.stop_flow(flow);
            self.carried(sender, asker, bytes);
            self.meter.wasted += bytes;
            self.stuck(slot);
        }
    }

    /// What is on its way when the run ends counts as sent for nothing.
    pub(super) fn end_transfers(&mut self) {
        let slots: Vec<usize> = self.transfers.iter().map(|(slot, _)| slot).collect();
        for slot in slots {
            self.abandon(slot, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::arguments::{Scenario, parsed};
    use super::super::world::Tuning;
    use super::*;

    #[test]
    fn what_crossed_zones_counts_also_where_it_came_in_vain() {
        let ends: [fn(&mut World, usize); 2] =
            [|world, slot| world.abandon(slot, 0), |world, slot| world.sender_died(slot)];
        for (zones, crossed) in [(2, 500_000), (1, 0)] {
            let arguments = parsed(&format!("sim --nodes 2 --size 1MiB --link 8mbit --zones {zones}"));
            let image = Scenario::FlashCrowd.image(&arguments).unwrap();
            for end in ends {
                let mut world = World::new(&arguments, Tuning::default(), image.clone());
                let [asker, sender] = [(); 2].map(|()| world.add(1e6));
                world.fetch(asker, sender, 1, &image.blobs[0].swarm, ChunkIndex(0), image.truth(0, 0));
                let (slot, ticket) =
                    world.transfers.iter().map(|(slot, transfer)| (slot, transfer.ticket)).next().unwrap();
                let ports = [sender, asker].map(|number| world.ports[number as usize]);
                let path = world.topology.between(&ports[0], &ports[1]);
                let flow = world.start_flow(path, 1 << 20, Cargo::Transfer(ticket));
                world.transfers[slot].stage = Stage::Flowing(flow);
                // Half a second at 1 MB/s.
                world.flows.next_end();
                world.flows.advance(500_000_000);
                end(&mut world, slot);
                assert_eq!((world.meter.carried, world.meter.cross_zone), (500_000, crossed));
            }
        }
    }
}
