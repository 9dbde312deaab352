//! Requests and configurations that nobody should send: an answer that says what is wrong, never a
//! crash.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use reqwest::{Method, Response};
use serde_json::Value;
use shoal_tests::{Cluster, FaultyRegistry, Image, ImageBuilder, client, shoal_binary};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const NAME: &str = "registry.test";
const REPOSITORY: &str = "library/app";

struct Scene {
    image: Image,
    cluster: Cluster,
    _registry: FaultyRegistry,
}

async fn scene() -> Scene {
    let registry = FaultyRegistry::start().await;
    let image = ImageBuilder::new(21).layer(2 << 20).build();
    registry.serve(&image, REPOSITORY, "v1");
    let cluster = Cluster::builder().registry(NAME, &registry.url()).start().await;
    cluster.node(0).puller(NAME).pull(REPOSITORY, "v1").await.unwrap();
    Scene { image, cluster, _registry: registry }
}

async fn get(scene: &Scene, path: &str, headers: &[(&str, &str)]) -> Response {
    request(scene, Method::GET, path, headers).await
}

async fn request(scene: &Scene, method: Method, path: &str, headers: &[(&str, &str)]) -> Response {
    let mut request = client().request(method, format!("{}{path}", scene.cluster.node(0).url()));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.send().await.unwrap()
}

async fn error_code(response: Response) -> String {
    let text = response.text().await.unwrap();
    let body: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("not JSON: {text:?}"));
    body["errors"][0]["code"].as_str().unwrap_or_else(|| panic!("no code: {text}")).to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_digests_names_and_tags_are_client_errors() {
    let mut scene = scene().await;
    let good = scene.image.digest();
    let long = "a".repeat(300);
    let paths = [
        (format!("/v2/{REPOSITORY}/blobs/sha256:abc"), &["DIGEST_INVALID"][..]),
        (format!("/v2/{REPOSITORY}/blobs/sha256:{}", "G".repeat(64)), &["DIGEST_INVALID"]),
        (format!("/v2/{REPOSITORY}/blobs/sha1:{}", "a".repeat(40)), &["DIGEST_INVALID", "UNSUPPORTED"]),
        (format!("/v2/{REPOSITORY}/blobs/latest"), &["DIGEST_INVALID"]),
        (format!("/v2/{REPOSITORY}/manifests/sha256:abc"), &["DIGEST_INVALID", "MANIFEST_INVALID"]),
        (
            format!("/v2/{REPOSITORY}/manifests/{long}"),
            &["MANIFEST_INVALID", "TAG_INVALID", "MANIFEST_UNKNOWN"],
        ),
        (format!("/v2/Library/App/manifests/{good}"), &["NAME_INVALID"]),
        (
            format!("/v2/library/../../etc/passwd/manifests/{good}"),
            &["NAME_INVALID", "UNSUPPORTED", "NAME_UNKNOWN"],
        ),
        (format!("/v2/{long}/{long}/manifests/v1"), &["NAME_INVALID"]),
        (format!("/v2/library/%2e%2e%2fapp/manifests/{good}"), &["NAME_INVALID"]),
        (format!("/v2/library/app%00/manifests/{good}"), &["NAME_INVALID"]),
    ];
    for (path, codes) in paths {
        let response = get(&scene, &path, &[]).await;
        let status = response.status().as_u16();
        assert!((400..500).contains(&status), "{path}: {status}");
        let code = error_code(response).await;
        assert!(codes.contains(&code.as_str()), "{path}: {code}");
    }
    assert!(scene.cluster.node_mut(0).is_alive());
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_are_answered_as_http_says() {
    let scene = scene().await;
    let layer = &scene.image.here().layers[0];
    let (path, size) = (format!("/v2/{REPOSITORY}/blobs/{}", layer.digest), layer.bytes.len());
    let tail = format!("bytes={}-", size - 3);
    let whole = 0..size;
    let satisfiable = [
        ("bytes=0-0", 0..1, 206),
        ("bytes=500-1499", 500..1500, 206),
        (tail.as_str(), size - 3..size, 206),
        ("bytes=-500", size - 500..size, 206),
        ("bytes=0-99999999999", whole.clone(), 206),
        ("lines=1-2", whole.clone(), 200),
        ("bytes=x-y", whole.clone(), 200),
    ];
    for (range, want, status) in satisfiable {
        let response = get(&scene, &path, &[("range", range)]).await;
        assert_eq!(response.status(), status, "{range}");
        assert_eq!(response.bytes().await.unwrap(), layer.bytes.slice(want), "{range}");
    }
    let past = format!("bytes={size}-");
    for range in [past.as_str(), "bytes=99999999999999999999-", "bytes=5-4"] {
        let response = get(&scene, &path, &[("range", range)]).await;
        let status = response.status().as_u16();
        // An inverted or unparsable range may be ignored: RFC 9110, section 14.2.
        assert!(status == 416 || (status == 200 && range != past), "{range}: {status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_registries_than_those_allowed_are_not_asked() {
    let scene = scene().await;
    let inside = FaultyRegistry::start().await;
    let local = inside.url().replace("http://", "");
    for ns in [
        local.as_str(),
        "127.0.0.1",
        "localhost",
        "[::1]:80",
        "169.254.169.254",
        "10.0.0.1",
        "internal.test",
        "a b",
    ] {
        let path = format!("/v2/{REPOSITORY}/manifests/v1?ns={}", ns.replace(' ', "%20"));
        let status = get(&scene, &path, &[]).await.status().as_u16();
        assert!((400..500).contains(&status), "ns={ns}: {status}");
    }
    assert!(inside.received().is_empty(), "{:?}", inside.received());
}

#[tokio::test(flavor = "multi_thread")]
async fn writing_is_refused() {
    let scene = scene().await;
    let digest = scene.image.digest();
    for (method, path) in [
        (Method::POST, format!("/v2/{REPOSITORY}/blobs/uploads/")),
        (Method::PUT, format!("/v2/{REPOSITORY}/manifests/v2")),
        (Method::DELETE, format!("/v2/{REPOSITORY}/manifests/{digest}")),
        (Method::DELETE, format!("/v2/{REPOSITORY}/blobs/{digest}")),
    ] {
        let response = request(&scene, method.clone(), &path, &[]).await;
        assert_eq!(response.status(), 405, "{method} {path}");
        assert_eq!(error_code(response).await, "UNSUPPORTED", "{method} {path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_on_every_port_is_survived() {
    let mut scene = scene().await;
    let garbage: Vec<u8> = (0..100_000).map(|_| fastrand::u8(..)).collect();
    let endless = [b"GET /v2/ HTTP/1.1\r\nx: ".to_vec(), vec![b'a'; 1 << 20]].concat();
    let addresses = [scene.cluster.node(0).mirror(), scene.cluster.node(0).admin()];
    for address in addresses {
        for bytes in [&garbage[..], &endless[..], b"\0", b"GET\r\n\r\n"] {
            let mut connection = TcpStream::connect(address).await.unwrap();
            // The other end may hang up before it has taken everything, which is right.
            let _ = connection.write_all(bytes).await;
            let _ = connection.shutdown().await;
            let _ = connection.read_to_end(&mut Vec::new()).await;
        }
    }
    assert!(scene.cluster.node_mut(0).is_alive());
    let pulled = scene.cluster.node(0).puller(NAME).pull(REPOSITORY, "v1").await.unwrap();
    assert_eq!(pulled.bytes, scene.image.total_bytes());
}

/// A configuration, the line of its mistake, and a word that the message must contain.
const MISTAKES: &[(&str, u32, &str)] = &[
    ("[node]\nzone = \"a\"\nracks = \"b\"\n", 3, "racks"),
    ("[mirror]\nlisten = \"127.0.0.1:0\"\ntag_ttl = \"soon\"\n", 3, "soon"),
    ("[limits]\ndisk = \"much\"\n", 2, "much"),
    ("[node\n", 1, ""),
    ("[mirorr]\n", 1, "mirorr"),
    ("[mirror]\nlisten = 5100\n", 2, ""),
    ("\n\n[admin]\nlisten = \"nowhere\"\n", 4, "nowhere"),
];

#[test]
fn a_configuration_with_a_mistake_exits_2_and_names_file_and_line() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("shoal-test.toml");
    for (text, line, word) in MISTAKES {
        std::fs::write(&config, text).unwrap();
        let output = std::process::Command::new(shoal_binary())
            .arg("daemon")
            .arg("--config")
            .arg(&config)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{text}: {said}");
        let names_line = said.contains(&format!("line {line}")) || said.contains(&format!("toml:{line}"));
        assert!(said.contains("shoal-test.toml") && names_line && said.contains(word), "{text}: {said}");
    }
}

#[test]
fn a_configuration_or_secret_that_is_missing_exits_2_and_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("shoal-test.toml");
    let start = || {
        std::process::Command::new(shoal_binary())
            .arg("daemon")
            .arg("--config")
            .arg(&config)
            .output()
            .unwrap()
    };
    let missing = start();
    assert_eq!(missing.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("shoal-test.toml"));

    let secret = folder.path().join("no-such-secret");
    let data = folder.path().join("data");
    let text = format!(
        "[node]\ndata_dir = \"{}\"\n[cluster]\nsecret_file = \"{}\"\n[mirror]\nlisten = \"127.0.0.1:0\"\n\
         [peers]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n",
        data.display(),
        secret.display()
    );
    std::fs::write(&config, text).unwrap();
    let output = start();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no-such-secret"));
}

#[test]
fn check_refuses_what_a_start_refuses() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("shoal-test.toml");
    let short = folder.path().join("short-secret");
    std::fs::write(&short, "abc").unwrap();
    let registry = |keys: &str| format!("[mirror.registries.\"r.example.com\"]\n{keys}");
    let check = |role: &str, text: &str| {
        std::fs::write(&config, text).unwrap();
        let shoal = &mut std::process::Command::new(shoal_binary());
        let output = shoal.args([role, "--check", "--config"]).arg(&config).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
        (output.status.code(), said.into_owned())
    };
    let mistakes = [
        ("daemon", "[cluster]\nsecret_file = \"/no/such\"".to_owned(), "/no/such"),
        ("scheduler", "[cluster]\nsecret_file = \"/no/such\"".to_owned(), "/no/such"),
        ("daemon", format!("[cluster]\nsecret_file = \"{}\"", short.display()), "too short"),
        ("scheduler", "[scheduler]\nlisten = \"0.0.0.0:5101\"".to_owned(), "secret"),
        ("daemon", "[peers]\nlisten = \"0.0.0.0:5103\"".to_owned(), "secret"),
        ("daemon", "[scheduler]\nurls = [\"https://scheduler.example.com\"]".to_owned(), "secret"),
        ("daemon", "[scheduler]\nurls = [\"127.0.0.1:5101\"]".to_owned(), "https://HOST"),
        ("daemon", "[scheduler]\nurls = \"https://127.0.0.1\"".to_owned(), "write a list"),
        ("daemon", "[limits]\ndisk = \"much\"".to_owned(), "50GiB"),
        ("daemon", "[mirror.registries.r.example.com]\nplain_http = true".to_owned(), "in quotes"),
        ("daemon", "[mirror.registries.\"https://r.example.com\"]".to_owned(), "https://r.example.com"),
        ("daemon", registry("url = \"r.example.com\""), "must be https://"),
        ("daemon", registry("url = \"https://r.example.com\"\nplain_http = true"), "plain_http"),
        ("daemon", registry("ca_file = \"/no/such\""), "/no/such"),
        ("daemon", registry("credentials = { username = \"u\" }"), "password"),
        ("daemon", registry("credentials = { username = \"u\", password_file = \"/no/such\" }"), "/no/such"),
        ("daemon", "[mirror]\ncerts_dir = \"/no/such\"".to_owned(), "/no/such"),
    ];
    for (role, text, word) in &mistakes {
        let (status, said) = check(role, text);
        assert_eq!(status, Some(2), "{text}: {said}");
        assert!(said.contains("shoal-test.toml") && said.contains(word), "{text}: {said}");
        assert_eq!(said.matches("os error 2").count(), usize::from(said.contains("os error 2")), "{said}");
    }
    for role in ["daemon", "scheduler"] {
        let (status, said) = check(role, "");
        assert_eq!((status, said.contains("shoal-test.toml: no mistakes found")), (Some(0), true), "{said}");
    }
}
