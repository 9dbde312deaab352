use shoal_transport::{Bulk, LinkEvent};

use crate::support::{Node, message, nothing, ordered_seeds, soon};

#[tokio::test]
async fn when_the_other_end_disconnects() {
    let mut a = Node::new(1, nothing());
    let mut b = Node::new(2, nothing());
    a.link(&mut b).await;
    a.endpoint.disconnect(b.id);
    assert_eq!(a.event().await, LinkEvent::Down(b.id));
    assert_eq!(b.event().await, LinkEvent::Down(a.id));
    b.link(&mut a).await;
}

#[tokio::test]
async fn when_the_other_end_is_gone() {
    let mut a = Node::new(1, nothing());
    let mut b = Node::new(2, nothing());
    a.link(&mut b).await;
    let gone = b.id;
    drop(b);
    assert_eq!(a.event().await, LinkEvent::Down(gone));
    assert_eq!(a.endpoint.links(), []);
}

/// A node that was killed and starts anew calls while the other end still believes in the old link.
async fn restart(old_seed: u8, other_seed: u8) {
    let mut other = Node::new(other_seed, nothing());
    let mut old = Node::new(old_seed, nothing());
    old.link(&mut other).await;
    let new = Node::new(old_seed, nothing());
    soon("a new link", new.endpoint.connect(other.info())).await.unwrap();
    assert_eq!(other.event().await, LinkEvent::Down(new.id));
    assert_eq!(other.event().await, LinkEvent::Up(new.id));
    new.endpoint.send(other.id, &message(1)).unwrap();
    assert_eq!(other.event().await, LinkEvent::Message(new.id, message(1)));
}

#[tokio::test]
async fn when_the_lesser_node_started_anew() {
    let (lesser, greater) = ordered_seeds();
    restart(lesser, greater).await;
}

#[tokio::test]
async fn when_the_greater_node_started_anew() {
    let (lesser, greater) = ordered_seeds();
    restart(greater, lesser).await;
}
