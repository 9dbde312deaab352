//! Layers that are shown: through which image they are read, and that they stay.

use super::node::{LENT, Node, PRIVATE, PUBLIC};
use super::*;

struct Case {
    node: Node,
    link: Link,
    snapshots: Arc<Snapshotter>,
    folder: TempDir,
}

impl Case {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let node = Node::listen(&folder.path().join("node.sock"));
        let (link, snapshots) = Self::open(&folder).await;
        Self { node, link, snapshots, folder }
    }

    async fn open(folder: &TempDir) -> (Link, Arc<Snapshotter>) {
        let places = Places {
            state: folder.path().to_owned(),
            fuse: folder.path().join("mount"),
            erofs: folder.path().join("erofs"),
        };
        let link = Link::open(folder.path().join("node.sock"));
        let policy = Policy { fill: Fill::Never, ..Policy::default() };
        let snapshots = Snapshotter::open(places, link.clone(), policy, None).await.unwrap();
        (link, snapshots)
    }

    /// As after a restart of the process.
    async fn again(self, between: impl FnOnce(&Path)) -> Self {
        let Self { node, folder, link, snapshots } = self;
        drop((link, snapshots));
        between(folder.path());
        let (link, snapshots) = Self::open(&folder).await;
        Self { node, link, snapshots, folder }
    }

    fn chain(&self) -> String {
        self.node.layer().to_string()
    }

    /// containerd pulls this image: its layer is there at once.
    async fn pull(&self, image: &str) {
        let target = self.chain();
        let wanted =
            labels(&[(TARGET, &target), ("containerd.io/snapshot/cri.image-ref", &format!("{image}:v1"))]);
        let taken = self.snapshots.prepare(format!("k8s.io/1/{image}"), String::new(), wanted).await;
        assert_eq!(code(taken), Code::AlreadyExists);
    }

    fn image(&self) -> String {
        let image = self.link.served(&self.node.layer()).unwrap().image;
        image.split_once('@').unwrap().0.to_owned()
    }

    async fn until_whole(&self) {
        let slots = self.snapshots.images().fs().slots();
        let layer = self.snapshots.images().layers(&slots).pop().unwrap();
        while !layer.is_proved() || self.link.served(layer.digest()).unwrap().authorization.is_some() {
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        }
    }
}

/// Time passes as soon as nothing else happens.
#[tokio::test(start_paused = true)]
async fn what_is_borrowed_for_a_fill_stays_while_it_is_tried_again_and_is_given_back_in_the_end() {
    let case = Case::new().await;
    // Longer than one attempt lasts.
    case.node.fails(200);
    let begun = tokio::time::Instant::now();
    case.pull(PRIVATE).await;
    case.until_whole().await;
    assert!(begun.elapsed().as_secs() > 30, "one attempt was enough, so nothing was tested");
    let asked = case.node.asked();
    let lent = |range: &crate::link::messages::RangeRef| {
        range.image.as_ref().unwrap().authorization.as_deref() == Some(LENT)
    };
    assert!(asked.iter().all(lent) && asked.len() > 200);
    let served = case.link.served(&case.node.layer()).unwrap();
    assert!(served.borrowed && served.authorization.is_none());
}

#[tokio::test]
async fn a_layer_that_a_private_image_shares_is_read_through_the_public_one() {
    for [first, then] in [[PUBLIC, PRIVATE], [PRIVATE, PUBLIC]] {
        let case = Case::new().await;
        case.pull(first).await;
        case.pull(then).await;
        assert_eq!(case.image(), PUBLIC, "{first} first");
        // The same after a restart: what the private one needs is in no row.
        let case = case.again(|_| {}).await;
        assert_eq!(case.image(), PUBLIC, "{first} first");
    }
}

#[tokio::test]
async fn a_cleanup_waits_for_who_shows_a_layer_anew() {
    let case = Case::new().await;
    case.pull(PUBLIC).await;
    let case = case.again(|state| std::fs::remove_dir_all(state.join("cache")).unwrap()).await;
    assert!(case.snapshots.images().fs().slots().is_empty(), "it cannot be shown from this disk");
    case.node.answers(false);
    let before = case.node.asked().len();
    let (snapshots, chain) = (case.snapshots.clone(), case.chain());
    let looking = tokio::spawn(async move { snapshots.view("look".into(), chain, BTreeMap::new()).await });
    while case.node.asked().len() == before {
        tokio::task::yield_now().await;
    }
    let mut cleaning = std::pin::pin!(case.snapshots.cleanup());
    assert!(futures_util::poll!(&mut cleaning).is_pending());
    case.node.answers(true);
    let (mounts, cleaned) = tokio::join!(looking, cleaning);
    cleaned.unwrap();
    let mounts = mounts.unwrap().unwrap();
    let row = case.snapshots.ledger().stat(&case.chain()).await.unwrap();
    let slot = row.layer.unwrap().slot();
    assert_eq!(case.snapshots.images().fs().slots(), [slot]);
    assert!(option(&mounts[0], "lowerdir").starts_with(&format!(
        "{}/mount/{}",
        case.folder.path().display(),
        slot.0
    )));
}
