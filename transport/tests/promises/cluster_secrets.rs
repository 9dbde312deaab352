use shoal_transport::{Cluster, ClusterError, generate_secret};

#[test]
fn made_ones_are_taken() {
    let secret = generate_secret().unwrap();
    assert_eq!(secret.len(), 64);
    assert!(!Cluster::from_secret(secret.as_bytes()).unwrap().is_insecure());
    assert_ne!(secret, generate_secret().unwrap());
}

#[test]
fn weak_ones_are_refused() {
    for weak in [
        "",
        "password",
        "0123456789abcdef",
        "0123456789abcdef0123456789abcde",
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "                                                        x",
    ] {
        assert!(matches!(Cluster::from_secret(weak.as_bytes()), Err(ClusterError::Weak)), "{weak:?}");
    }
    assert!(Cluster::from_secret(&[0, 3, 5, 200, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31]).is_ok());
}

#[test]
fn a_file_that_is_no_secret_names_itself() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("missing");
    let error = Cluster::from_file(&path).unwrap_err().to_string();
    assert!(error.contains(path.to_str().unwrap()), "{error}");
}

#[test]
fn no_secret_is_insecure() {
    assert!(Cluster::insecure().unwrap().is_insecure());
}

/// That white space does not matter, and that all nodes derive the same authority, shows when they link.
#[tokio::test]
async fn the_same_secret_is_the_same_cluster() {
    use crate::support::{Node, SECRET, config, nothing};
    use shoal_transport::{Identity, MutualTls};

    let with_newline = [SECRET, b"\n"].concat();
    let mut nodes: Vec<Node> = [(1, SECRET.to_vec()), (2, with_newline)]
        .into_iter()
        .map(|(seed, secret)| {
            let cluster = Cluster::from_secret(&secret).unwrap();
            let identity = Identity::from_seed([seed; 32]).unwrap();
            Node::with(config(), &MutualTls::new(&cluster, &identity).unwrap(), nothing())
        })
        .collect();
    let mut second = nodes.pop().unwrap();
    nodes[0].link(&mut second).await;
}
