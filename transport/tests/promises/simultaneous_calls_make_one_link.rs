use shoal_transport::{Bulk, LinkEvent};

use crate::support::{Node, message, nothing, soon};

#[tokio::test]
async fn however_often_both_call_at_once() {
    for round in 0..20 {
        let mut a = Node::new(1, nothing());
        let mut b = Node::new(2, nothing());
        let calls = async {
            tokio::join!(
                a.endpoint.connect(b.info()),
                b.endpoint.connect(a.info()),
                a.endpoint.connect(b.info()),
                b.endpoint.connect(a.info()),
            )
        };
        let (first, second, third, fourth) = soon("links", calls).await;
        for result in [first, second, third, fourth] {
            result.unwrap();
        }
        assert_eq!(a.event().await, LinkEvent::Up(b.id), "round {round}");
        assert_eq!(b.event().await, LinkEvent::Up(a.id), "round {round}");
        // Nothing sent from now on is lost, and the link does not flap.
        for number in 0..20 {
            a.endpoint.send(b.id, &message(number)).unwrap();
            b.endpoint.send(a.id, &message(number)).unwrap();
        }
        for number in 0..20 {
            assert_eq!(a.event().await, LinkEvent::Message(b.id, message(number)), "round {round}");
            assert_eq!(b.event().await, LinkEvent::Message(a.id, message(number)), "round {round}");
        }
        assert_eq!((a.endpoint.links().len(), b.endpoint.links().len()), (1, 1));
    }
}

#[tokio::test]
async fn connecting_again_changes_nothing() {
    let mut a = Node::new(1, nothing());
    let mut b = Node::new(2, nothing());
    a.link(&mut b).await;
    a.endpoint.connect(b.info()).await.unwrap();
    b.endpoint.connect(a.info()).await.unwrap();
    a.endpoint.send(b.id, &message(1)).unwrap();
    assert_eq!(b.event().await, LinkEvent::Message(a.id, message(1)));
}
