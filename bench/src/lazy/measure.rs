//! One start of a container, measured, on a node that holds nothing.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::containerd::{Containerd, Snapshotter};
use super::identity::{Tree, tree};
use super::layers::{Layers, Spans};
use super::layout;
use super::native::touched;
use super::node::{MEASURED, Node};
use super::reader::read_all;
use crate::rig::folder::Folder;
use crate::rig::image::Image;
use crate::rig::members::{MIRROR, Members, REGISTRY, ask, joined};
use crate::rig::net::Host;
use crate::rig::process::Process;
use crate::rig::registry;

/// A start that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(600);
/// Programs of every start. On a node in use they are in the page cache.
const PROGRAMS: [&[&str]; 3] =
    [&["ctr", "--version"], &["runc", "--version"], &["containerd-shim-runc-v2", "-v"]];

/// How the image comes to the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// (a) containerd pulls from the registry.
    Registry,
    /// (b) containerd pulls through Shoal's mirror.
    Mirror,
    /// (c) containerd starts from what `shoal fs` shows.
    Lazy,
    /// As `Lazy`, but what nobody reads is not fetched: for the bytes.
    LazyWithoutFill,
}

impl Way {
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Registry => "from the registry",
            Self::Mirror => "through Shoal",
            Self::Lazy => "lazily",
            Self::LazyWithoutFill => "lazily, for its bytes",
        }
    }
}

/// What one start took. Times are seconds from the call of PullImage.
#[derive(Clone, Copy, Debug)]
pub(super) struct Start {
    pub ready_s: f64,
    /// Bytes that the node's link had received by then.
    pub link_bytes: u64,
    /// Bytes of layers and indexes that the daemon had given to `shoal fs` by then.
    pub range_bytes: u64,
    pub read_s: Option<f64>,
    /// (d) A second container, from its start on.
    pub warm_s: Option<f64>,
}

/// What is looked at beside, once for each image.
#[derive(Debug, Default)]
pub(super) struct Inspection {
    /// The image as containerd unpacked it, and as it was shown lazily.
    pub unpacked: Option<Tree>,
    pub shown: Option<Tree>,
    /// What a container touched until it was useful.
    pub touched: Option<Spans>,
}

/// An image, and what is known of it.
pub(super) struct Subject {
    pub image: Image,
    pub layers: Layers,
}

/// What all starts of a link share.
#[derive(Debug)]
pub(super) struct Bench<'a> {
    pub members: &'a Members<'a>,
    pub node: &'a Node,
    pub folder: &'a Path,
}

/// What runs on the node beside containerd.
struct Cast {
    /// Before the daemon that it asks.
    fs: Option<Process>,
    daemon: Option<Process>,
}

impl Bench<'_> {
    pub(super) async fn start(
        &self,
        subject: &Subject,
        way: Way,
        inspection: Option<&mut Inspection>,
    ) -> Result<Start> {
        let measured = tokio::time::timeout(PATIENCE, self.measure(subject, way, inspection));
        let measured = measured.await.context("it takes too long").and_then(|measured| measured);
        measured.with_context(|| format!("{}, {}", subject.image.reference, way.text()))
    }

    async fn measure(
        &self,
        subject: &Subject,
        way: Way,
        inspection: Option<&mut Inspection>,
    ) -> Result<Start> {
        let image = &subject.image;
        let folder = Folder::make(self.folder.join("measured"))?;
        let _data = Folder::make(self.members.data(MEASURED))?;
        let cast = self.cast(way, folder.path()).await?;
        let source = match way {
            Way::Registry => registry::url(Host::Origin),
            _ => MIRROR.to_owned(),
        };
        let snapshotter = match cast.fs {
            Some(_) => Snapshotter::Shoal(socket(folder.path())),
            None => Snapshotter::Overlayfs,
        };
        let mut containerd = Containerd::start(self.node, folder.path(), &source, snapshotter).await?;
        self.make_cold(&containerd, &cast, folder.path()).await?;

        let reference = format!("{REGISTRY}/{}:{}", image.repository, image.reference);
        let link_before = self.node.received()?;
        let start = Instant::now();
        containerd.pull(&reference).await?;
        let container = containerd.run(&reference, "first").await?;
        let link_bytes = self.node.received()? - link_before;
        let range_bytes = match cast.daemon {
            Some(_) => range_bytes(self.node).await?,
            None => 0,
        };
        let ready_s = container.ready.duration_since(start).as_secs_f64();
        let mut read_s = None;
        let view = folder.path().join("view");
        if way != Way::LazyWithoutFill {
            containerd.mount(&layout::chain_id(image)?, &view).await?;
            let root = self.node.seen(&view)?;
            let bytes = apart(move |stop| read_all(&root, stop)).await?;
            read_s = Some(start.elapsed().as_secs_f64());
            ensure!(bytes > 0, "the image is empty");
        }
        containerd.kill(container).await?;
        let mut warm_s = None;
        if way == Way::Registry {
            let start = Instant::now();
            let container = containerd.run(&reference, "second").await?;
            warm_s = Some(container.ready.duration_since(start).as_secs_f64());
            containerd.kill(container).await?;
        }
        if read_s.is_some() {
            if let Some(inspection) = inspection {
                self.inspect(subject, way, &containerd, &view, inspection).await?;
            }
            containerd.unmount(&view).await?;
        }
        containerd.stop().await?;
        cast.stop().await?;
        Ok(Start { ready_s, link_bytes, range_bytes, read_s, warm_s })
    }

    async fn cast(&self, way: Way, folder: &Path) -> Result<Cast> {
        let mut cast = Cast { fs: None, daemon: None };
        if way == Way::Registry {
            return Ok(cast);
        }
        let mut daemon = self.members.daemon(MEASURED, "")?;
        joined(&mut daemon).await?;
        cast.daemon = Some(daemon);
        if way == Way::Mirror {
            return Ok(cast);
        }
        let mut command = self.node.command(std::env::current_exe()?);
        command.arg("fs").arg("--node").arg(self.members.data(MEASURED).join("lazy.sock"));
        command.arg("--state").arg(folder.join("fs")).arg("--mount").arg(folder.join("m"));
        command.arg("--socket").arg(socket(folder));
        if way == Way::LazyWithoutFill {
            command.args(["--fill", "never"]);
        }
        let mut fs = self.node.spawn("shoal-fs", command)?;
        fs.until(async |fs| fs.tail().contains("mount=").then_some(())).await?;
        cast.fs = Some(fs);
        Ok(cast)
    }

    /// Empties the page cache, and checks that the node holds nothing of any image.
    async fn make_cold(&self, containerd: &Containerd<'_>, cast: &Cast, folder: &Path) -> Result<()> {
        rustix::fs::sync();
        std::fs::write("/proc/sys/vm/drop_caches", "3").context("cannot empty the page cache")?;
        for program in PROGRAMS {
            let mut command = self.node.command(program.first().unwrap_or(&""));
            command.args(program.iter().skip(1));
            self.node.run(command).await?;
        }
        let held = containerd.content().await?;
        ensure!(held.is_empty(), "containerd holds content already: {held}");
        if cast.daemon.is_some() {
            let status: serde_json::Value =
                serde_json::from_str(&ask(self.node.namespace(), "http://127.0.0.1:5105/status").await?)?;
            let used = status.pointer("/store/used_bytes").and_then(serde_json::Value::as_u64);
            ensure!(used == Some(0), "the daemon's store is not empty: {used:?}");
        }
        if cast.fs.is_some() {
            let layers = std::fs::read_dir(folder.join("fs/cache/layers"));
            let layers = layers.map_or(0, Iterator::count);
            ensure!(layers == 0, "shoal fs holds {layers} layers already");
        }
        Ok(())
    }

    /// Looks at what is mounted at `view`.
    async fn inspect(
        &self,
        subject: &Subject,
        way: Way,
        containerd: &Containerd<'_>,
        view: &Path,
        inspection: &mut Inspection,
    ) -> Result<()> {
        let root = self.node.seen(view)?;
        match way {
            Way::Registry => {
                inspection.unpacked = Some(apart(move |stop| tree(&root, stop)).await?);
                let program = layout::program(&subject.image)?;
                let (node, folder) = (self.node, view.with_file_name("inspection"));
                let touched = touched(node, containerd, view, &folder, &program, &subject.layers);
                inspection.touched = Some(touched.await?);
            }
            Way::Lazy => inspection.shown = Some(apart(move |stop| tree(&root, stop)).await?),
            Way::Mirror | Way::LazyWithoutFill => {}
        }
        Ok(())
    }
}

impl Cast {
    async fn stop(self) -> Result<()> {
        for process in [self.fs, self.daemon].into_iter().flatten() {
            process.end().await?;
        }
        Ok(())
    }
}

fn socket(folder: &Path) -> PathBuf {
    folder.join("snapshotter.sock")
}

/// Bytes of layers and indexes that the node's daemon gave to its filesystems.
async fn range_bytes(node: &Node) -> Result<u64> {
    let metrics = ask(node.namespace(), "http://127.0.0.1:5105/metrics").await?;
    metric(&metrics, "shoal_lazy_ranges_bytes_total")
}

/// The sum of a metric over its labels.
pub(super) fn metric(text: &str, name: &str) -> Result<u64> {
    let values = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        rest.starts_with(['{', ' ']).then(|| rest.rsplit(' ').next()).flatten()
    });
    values.map(|value| Ok(value.parse::<u64>()?)).sum::<Result<u64>>().with_context(|| format!("read {name}"))
}

/// Does work that blocks on a thread of its own; it is told to stop when nobody waits for it any more.
pub(super) async fn apart<T: Send + 'static>(
    work: impl FnOnce(&AtomicBool) -> Result<T> + Send + 'static,
) -> Result<T> {
    struct Stop(Arc<AtomicBool>);
    impl Drop for Stop {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let stop = Stop(Arc::default());
    let told = stop.0.clone();
    let (answer, answered) = tokio::sync::oneshot::channel();
    std::thread::Builder::new().name("reader".to_owned()).spawn(move || {
        // Nobody may be waiting any more.
        let _ = answer.send(work(&told));
    })?;
    answered.await.context("a thread ended without an answer")?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_summed_over_its_labels() {
        let text = "# TYPE x counter\nx_total{a=\"1 2\"} 3\nx_total{a=\"b\"} 4\nx_total_more 9\ny 1\n";
        assert_eq!(metric(text, "x_total").unwrap(), 7);
        assert_eq!(metric(text, "z").unwrap(), 0);
    }
}
