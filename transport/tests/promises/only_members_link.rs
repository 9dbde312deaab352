use shoal_transport::{Bulk, Cluster, ConnectError, Identity, MutualTls};

use crate::support::{Node, config, info, nothing, soon, tls};

fn stranger(seed: u8) -> Vec<MutualTls> {
    let identity = Identity::from_seed([seed; 32]).unwrap();
    let other = Cluster::from_secret(b"fedcba9876543210fedcba9876543210").unwrap();
    let none = Cluster::insecure().unwrap();
    [other, none].iter().map(|cluster| MutualTls::new(cluster, &identity).unwrap()).collect()
}

#[tokio::test]
async fn a_stranger_who_calls_is_refused() {
    let mut member = Node::new(1, nothing());
    for tls in stranger(2) {
        let caller = Node::with(config(), &tls, nothing());
        let result = soon("a refusal", caller.endpoint.connect(member.info())).await;
        assert!(matches!(result, Err(ConnectError::Unreachable { .. })), "{result:?}");
        assert_eq!(member.events(), []);
        assert_eq!(member.endpoint.links(), []);
    }
}

#[tokio::test]
async fn a_stranger_who_is_called_is_refused() {
    let caller = Node::new(1, nothing());
    for tls in stranger(2) {
        let mut called = Node::with(config(), &tls, nothing());
        let result = soon("a refusal", caller.endpoint.connect(called.info())).await;
        assert!(matches!(result, Err(ConnectError::Unreachable { .. })), "{result:?}");
        assert_eq!(called.events(), []);
    }
}

#[tokio::test]
async fn a_member_other_than_the_one_called_is_refused() {
    let caller = Node::new(1, nothing());
    let called = Node::new(2, nothing());
    let expected = tls(3).node();
    let result =
        soon("a refusal", caller.endpoint.connect(info(expected, called.endpoint.local_addr()))).await;
    match result {
        Err(ConnectError::WrongNode { expected: e, got, .. }) => assert_eq!((e, got), (expected, called.id)),
        other => panic!("{other:?}"),
    }
    assert_eq!(caller.endpoint.links(), []);
}

#[tokio::test]
async fn nobody_links_to_itself() {
    let node = Node::new(1, nothing());
    let result = node.endpoint.connect(node.info()).await;
    assert!(matches!(result, Err(ConnectError::Itself { .. })), "{result:?}");
}
