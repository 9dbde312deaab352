//! The images that are measured: what is in them, and what a container of each does.

use clap::ValueEnum;
use serde::Serialize;

/// Of Debian, whose packages the images are made of.
pub(super) const SUITE: &str = "bookworm";

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum ImageName {
    /// Imports numpy and pandas, and computes something
    Python,
    /// A hash by Node.js
    Node,
    /// A script in Rhino, on a Java runtime
    Jre,
    /// Serves a page
    Nginx,
    /// Starts the server on a database, and answers a query
    Postgres,
}

/// All that makes an image what it is: two images of one recipe hold the same, but for what Debian has updated.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Recipe {
    /// Installed one group after the other: each becomes a layer.
    pub groups: &'static [&'static [&'static str]],
    /// What a container runs. It prints one line once it is useful, and does not end.
    pub command: &'static [&'static str],
    pub user: &'static str,
}

const PYTHON: &str = "import numpy, pandas, time
frame = pandas.DataFrame({'x': numpy.arange(1000.0), 'group': numpy.arange(1000) % 7})
print(frame.groupby('group').x.mean().sum(), flush=True)
time.sleep(1e6)";

const NODE: &str = "console.log(require('crypto').createHash('sha256').update('shoal').digest('hex'));
setInterval(() => {}, 1e6)";

const NGINX: &str = "nginx -g 'daemon off;' &
until (: >/dev/tcp/127.0.0.1/80) 2>/dev/null; do sleep 0.01; done
exec 3<>/dev/tcp/127.0.0.1/80
printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3
cat <&3 | grep '<title>'
wait";

const POSTGRES: &str = "bin=/usr/lib/postgresql/15/bin
$bin/postgres -D /var/lib/postgresql/15/main -c config_file=/etc/postgresql/15/main/postgresql.conf \\
    -c unix_socket_directories=/tmp -c external_pid_file= -c ssl=off >/dev/null 2>&1 &
until $bin/psql -h /tmp -d postgres -Atc 'select count(*) from pg_class' 2>/dev/null; do sleep 0.02; done
wait";

impl ImageName {
    pub(super) fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    pub(super) fn recipe(self) -> Recipe {
        let recipe = |groups, command| Recipe { groups, command, user: "" };
        match self {
            Self::Python => recipe(
                &[&["python3"], &["python3-numpy", "python3-pandas"]],
                &["/usr/bin/python3", "-c", PYTHON],
            ),
            Self::Node => recipe(&[&["nodejs"]], &["/usr/bin/node", "-e", NODE]),
            Self::Jre => recipe(
                &[&["default-jre-headless"], &["rhino"]],
                &[
                    "/usr/bin/java",
                    "-cp",
                    "/usr/share/java/js.jar",
                    "org.mozilla.javascript.tools.shell.Main",
                    "-e",
                    "print([1, 2, 3].map(function (x) { return x * x })); java.lang.Thread.sleep(1e9)",
                ],
            ),
            Self::Nginx => recipe(&[&["nginx"]], &["/bin/bash", "-c", NGINX]),
            Self::Postgres => Recipe {
                groups: &[&["postgresql"]],
                command: &["/bin/bash", "-c", POSTGRES],
                user: "postgres",
            },
        }
    }
}
