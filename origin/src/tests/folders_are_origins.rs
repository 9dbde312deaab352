//! An OCI layout folder is an origin like any other.

use std::path::Path;

use futures_util::TryStreamExt;

use super::*;
use crate::{Failure, Kind, PassPath};

fn add(folder: &Path, bytes: &[u8]) -> Digest {
    let digest = digest_of(bytes);
    let blobs = folder.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    std::fs::write(blobs.join(digest.hex()), bytes).unwrap();
    digest
}

/// A layout with an image under each kind of name, one of them in a nested index.
fn layout() -> (tempfile::TempDir, Arc<Origin>, Digest) {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    let manifest = add(folder, br#"{"schemaVersion":2,"config":{}}"#);
    let entry = |key: &str, name: &str| {
        serde_json::json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "size": 31,
            "digest": manifest.to_string(), "annotations": {key: name}})
    };
    let ref_name = "org.opencontainers.image.ref.name";
    let nested = serde_json::json!({"schemaVersion": 2, "manifests": [entry(ref_name, "team/app:nested")]});
    let nested = add(folder, nested.to_string().as_bytes());
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [
        entry(ref_name, "bare"),
        entry(ref_name, "team/app:v1"),
        entry("io.containerd.image.name", "docker.io/library/tool:v2"),
        {"mediaType": "application/vnd.oci.image.index.v1+json", "digest": nested.to_string(), "size": 1},
        {"digest": "sha256:../../../etc/passwd", "annotations": {ref_name: "evil"}},
    ]});
    std::fs::write(folder.join("index.json"), index.to_string()).unwrap();
    let origin = origin("docker.io", &format!("url = 'oci:{}'", folder.display()));
    (dir, origin, manifest)
}

#[tokio::test]
async fn tags_are_found_by_every_kind_of_name() {
    let (_dir, origin, manifest) = layout();
    for (repository, tag, want) in [
        ("team/app", "v1", true),
        ("team/app", "nested", true),
        ("tool", "v2", true),
        ("library/tool", "v2", true),
        ("any/thing", "bare", true),
        ("team/other", "v1", false),
        ("team/app", "v2", false),
        ("team/app", "evil", false),
    ] {
        let reference = tag.parse().unwrap();
        let repository = repository.parse().unwrap();
        let head = origin.head_manifest(&repository, &reference, &[], &Identity::Anonymous).await;
        match head {
            Ok(head) => assert_eq!((head.digest, want), (Some(manifest), true), "{repository}:{tag}"),
            Err(error) => {
                assert_eq!((error.failure(), want), (&Failure::NotFound, false), "{repository}:{tag}")
            }
        }
    }
    let passed = origin.pass(&repository(), &PassPath::Tags, "", &Identity::Anonymous).await.unwrap();
    assert_eq!(&passed.body[..], br#"{"name":"team/app","tags":["bare","nested","v1"]}"#);
}

#[tokio::test]
async fn manifests_and_ranges_are_read() {
    let (dir, origin, manifest) = layout();
    let by_digest = manifest.to_string().parse().unwrap();
    let body = origin.get_manifest(&repository(), &by_digest, &[], 100, &Identity::Anonymous).await.unwrap();
    assert_eq!(body.media_type.as_deref(), Some("application/vnd.oci.image.manifest.v1+json"));
    let small =
        origin.get_manifest(&repository(), &by_digest, &[], 5, &Identity::Anonymous).await.unwrap_err();
    assert_eq!(*small.failure(), Failure::TooLarge { limit: 5 });

    let bytes = content(1_000_000);
    let blob = add(dir.path(), &bytes);
    assert_eq!(origin.head_blob(&repository(), &blob, &Identity::Anonymous).await.unwrap(), 1_000_000);
    let read =
        |size, range| origin.read_blob(&REPOSITORY, Kind::Blob, &blob, size, range, &Identity::Anonymous);
    static REPOSITORY: std::sync::LazyLock<Repository> = std::sync::LazyLock::new(repository);
    for range in [0..1_000_000, 300_000..700_001, 999_999..1_000_000] {
        let want = bytes.slice(range.start..range.end);
        let stream = read(1_000_000, range.start as u64..range.end as u64).await.unwrap();
        assert_eq!(stream.try_collect::<Vec<Bytes>>().await.unwrap().concat(), want);
    }
    let wrong = read(1_000_001, 0..5).await.unwrap_err();
    assert_eq!(*wrong.failure(), Failure::WrongLength { want: 1_000_001, got: 1_000_000 });
}

#[tokio::test]
async fn a_changed_manifest_and_a_missing_blob_are_errors() {
    let (dir, origin, manifest) = layout();
    let path = dir.path().join("blobs/sha256").join(manifest.hex());
    std::fs::write(path, "{}").unwrap();
    let reference = "v1".parse().unwrap();
    let wrong =
        origin.get_manifest(&repository(), &reference, &[], 100, &Identity::Anonymous).await.unwrap_err();
    assert!(matches!(wrong.failure(), Failure::WrongDigest { .. }));
    let absent = origin.head_blob(&repository(), &digest_of(b"absent"), &Identity::Anonymous).await;
    assert_eq!(*absent.unwrap_err().failure(), Failure::NotFound);
}
