//! The supervisor against real binaries: every test starts a server of its own.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use postgres::{Cluster, DATABASE, HOST_ROLE, Installation, OWNER_ROLE, Options, PostgresError, discover};
use rustix::process::{Pid, Signal, kill_process};

/// A place for clusters that the server's user can reach; its servers stop with it.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::Builder::new()
            .prefix("wattle-pg-test-")
            .tempdir_in("/var/tmp")
            .unwrap();
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
        Self { dir }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn data_dir(&self) -> PathBuf {
        self.path().join("pg")
    }

    fn options(&self) -> Options {
        Options::throwaway(self.data_dir())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Ok(Some(cluster)) = Cluster::find(&self.data_dir()) {
            let _ = cluster.stop();
        }
    }
}

/// Asks the server with the client beside its binaries; the answer's columns are split by `|`.
fn ask(cluster: &Cluster, role: &str, sql: &str) -> Result<String, String> {
    let psql = discover().unwrap().program("psql");
    let output = Command::new(psql)
        .args([
            "-XAtq",
            "-v",
            "ON_ERROR_STOP=1",
            "-c",
            sql,
            &cluster.url(role, DATABASE),
        ])
        .env_remove("PGHOST")
        .output()
        .unwrap();
    if output.status.success() {
        Ok(String::from_utf8(output.stdout).unwrap().trim().to_owned())
    } else {
        Err(String::from_utf8(output.stderr).unwrap())
    }
}

fn owner(cluster: &Cluster, sql: &str) -> String {
    ask(cluster, OWNER_ROLE, sql).unwrap()
}

fn kill(cluster: &Cluster) {
    let pid = Pid::from_raw(cluster.postmaster_pid().unwrap().cast_signed()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
}

#[test]
fn cold_then_warm_with_what_was_written() {
    let place = Place::new();
    let options = Options::new(place.data_dir());
    let cluster = Cluster::start(options.clone()).unwrap();
    assert!(!cluster.adopted());
    let settings = "select string_agg(name || '=' || setting, ' ' order by name) from pg_settings where name in \
                    ('data_checksums', 'fsync', 'full_page_writes', 'listen_addresses', 'server_encoding', \
                     'synchronous_commit', 'lc_collate', 'unix_socket_permissions')";
    let expected = "data_checksums=on fsync=on full_page_writes=on ";
    let found = owner(&cluster, settings);
    assert!(found.starts_with(expected), "{found}");
    for part in [
        "listen_addresses= ",
        "server_encoding=UTF8",
        "synchronous_commit=on",
        "permissions=0700",
    ] {
        assert!(found.contains(part), "{part} in {found}");
    }
    assert_eq!(
        owner(
            &cluster,
            "select datcollate from pg_database where datname = current_database()"
        ),
        "C"
    );
    owner(&cluster, "create table kept (n int); insert into kept values (7)");

    let mode = std::fs::metadata(cluster.socket_dir()).unwrap().mode();
    assert_eq!(mode & 0o777, 0o700, "only the server's user may reach the socket");
    cluster.stop().unwrap();
    assert_eq!(cluster.postmaster_pid(), None);
    assert!(!place.data_dir().join("postmaster.pid").exists());
    cluster.stop().unwrap();

    let cluster = Cluster::start(options).unwrap();
    assert!(!cluster.adopted());
    assert_eq!(owner(&cluster, "select n from kept"), "7");
}

#[test]
fn the_host_role_gets_in_once_it_exists_and_others_never() {
    let place = Place::new();
    let cluster = Cluster::start(place.options()).unwrap();
    let refused = ask(&cluster, HOST_ROLE, "select 1").unwrap_err();
    assert!(
        refused.contains("role \"wattle_host\" does not exist"),
        "{refused}"
    );
    owner(
        &cluster,
        "create role wattle_host login; create role stranger login superuser",
    );
    assert_eq!(
        ask(&cluster, HOST_ROLE, "select current_user").unwrap(),
        HOST_ROLE
    );
    let refused = ask(&cluster, "stranger", "select 1").unwrap_err();
    assert!(refused.contains("Peer authentication failed"), "{refused}");
}

#[test]
fn a_server_that_lost_its_host_is_adopted() {
    let place = Place::new();
    let first = Cluster::start(place.options()).unwrap();
    let pid = first.postmaster_pid().unwrap();
    // Nothing that is sent to the host's process group, ^C above all, may reach it.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let group = stat
        .rsplit_once(") ")
        .unwrap()
        .1
        .split(' ')
        .nth(2)
        .unwrap()
        .to_owned();
    assert_eq!(group, pid.to_string());
    let url = first.url(OWNER_ROLE, DATABASE);
    drop(first);

    let second = Cluster::start(place.options()).unwrap();
    assert!(second.adopted());
    assert_eq!(second.postmaster_pid(), Some(pid));
    assert_eq!(second.url(OWNER_ROLE, DATABASE), url);
    assert_eq!(owner(&second, "select 1"), "1");
    second.stop().unwrap();
    assert!(
        !Path::new(&format!("/proc/{pid}")).exists(),
        "stop waits until the server is gone"
    );
    assert!(Cluster::find(&place.data_dir()).unwrap().is_none());
}

#[test]
fn a_killed_server_starts_again_at_once_with_what_it_acknowledged() {
    let place = Place::new();
    let options = Options::new(place.data_dir());
    let cluster = Cluster::start(options.clone()).unwrap();
    owner(&cluster, "create table kept (n int)");
    for n in 1..=3 {
        owner(&cluster, &format!("insert into kept values ({n})"));
        kill(&cluster);
        let again = Cluster::start(options.clone()).unwrap();
        assert!(
            !again.adopted(),
            "a pid file alone must not be taken for a server"
        );
        assert_eq!(
            owner(&again, "select count(*), sum(n) from kept"),
            format!("{n}|{}", n * (n + 1) / 2)
        );
    }
}

#[test]
fn of_two_hosts_at_once_one_starts_and_the_other_adopts() {
    let place = Place::new();
    let start = || Cluster::start(place.options()).unwrap();
    let (one, two) = std::thread::scope(|scope| {
        let (one, two) = (scope.spawn(start), scope.spawn(start));
        (one.join().unwrap(), two.join().unwrap())
    });
    assert_ne!(one.adopted(), two.adopted());
    assert_eq!(one.postmaster_pid(), two.postmaster_pid());
    assert!(one.postmaster_pid().is_some());
}

#[test]
fn a_data_dir_longer_than_a_socket_path_serves() {
    let place = Place::new();
    let long = place.path().join("a".repeat(120));
    std::fs::create_dir(&long).unwrap();
    std::fs::set_permissions(&long, PermissionsExt::from_mode(0o755)).unwrap();
    let cluster = Cluster::start(Options::throwaway(long.join("pg"))).unwrap();
    let answer = ask(&cluster, OWNER_ROLE, "select 1");
    cluster.stop().unwrap();
    assert_eq!(answer.unwrap(), "1");
}

#[test]
fn a_server_without_its_socket_is_replaced() {
    let place = Place::new();
    let first = Cluster::start(place.options()).unwrap();
    let pid = first.postmaster_pid();
    std::fs::remove_dir_all(first.socket_dir()).unwrap();
    let second = Cluster::start(place.options()).unwrap();
    assert!(!second.adopted());
    assert_ne!(second.postmaster_pid(), pid);
    assert_eq!(owner(&second, "select 1"), "1");
}

/// A bin directory like the real one, but for `initdb`.
fn with_initdb(place: &Place, script: &str) -> PathBuf {
    let Installation { bin_dir, .. } = discover().unwrap();
    let bin = place.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    symlink(bin_dir.join("postgres"), bin.join("postgres")).unwrap();
    std::fs::write(bin.join("initdb"), format!("#!/bin/sh\n{script}\n")).unwrap();
    for path in [bin.clone(), bin.join("initdb")] {
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
    }
    bin
}

#[test]
fn initdb_killed_half_way_leaves_nothing_in_the_way() {
    let place = Place::new();
    let bin_dir = with_initdb(
        &place,
        r#"mkdir "$2/base" && echo 15 > "$2/PG_VERSION" && kill -9 $$"#,
    );
    let killed = Options {
        bin_dir: Some(bin_dir),
        ..place.options()
    };
    let error = Cluster::start(killed).unwrap_err();
    assert!(
        matches!(&error, PostgresError::Program { program, .. } if program.ends_with("initdb")),
        "{error}"
    );
    assert!(!place.data_dir().exists());
    let leftover = |name: std::ffi::OsString| name.to_string_lossy().contains("init.");
    let leftovers = || {
        std::fs::read_dir(place.path())
            .unwrap()
            .filter(|e| leftover(e.as_ref().unwrap().file_name()))
            .count()
    };
    assert_eq!(leftovers(), 1, "the killed attempt did leave something");

    let cluster = Cluster::start(place.options()).unwrap();
    assert_eq!(owner(&cluster, "select 1"), "1");
    assert_eq!(leftovers(), 0);
}

#[test]
fn what_initdb_says_reaches_the_reader() {
    let place = Place::new();
    let bin_dir = with_initdb(&place, "echo 'no space left' >&2; exit 3");
    let error = Cluster::start(Options {
        bin_dir: Some(bin_dir),
        ..place.options()
    })
    .unwrap_err()
    .to_string();
    assert!(
        error.contains("initdb failed (exit status: 3): no space left"),
        "{error}"
    );
}

#[test]
fn a_setting_that_postgres_refuses_fails_at_once_with_its_words() {
    let place = Place::new();
    let settings = vec![("shared_buffers".to_owned(), "nonsense".to_owned())];
    let error = Cluster::start(Options {
        settings,
        ..place.options()
    })
    .unwrap_err();
    assert!(matches!(error, PostgresError::Start { .. }), "{error}");
    assert!(error.to_string().contains("shared_buffers"), "{error}");
    let cluster = Cluster::start(Options {
        settings: vec![("work_mem".to_owned(), "5MB".to_owned())],
        ..place.options()
    });
    assert_eq!(owner(&cluster.unwrap(), "show work_mem"), "5MB");
}

#[test]
fn missing_binaries_and_another_major_are_said() {
    let place = Place::new();
    let empty = place.path().join("empty");
    let error = Cluster::start(Options {
        bin_dir: Some(empty),
        ..place.options()
    })
    .unwrap_err()
    .to_string();
    assert!(
        error.contains("empty is named as PostgreSQL's bin directory, but holds no `postgres`"),
        "{error}"
    );

    std::fs::create_dir(place.data_dir()).unwrap();
    std::fs::write(place.data_dir().join("PG_VERSION"), "99\n").unwrap();
    if rustix::process::geteuid().is_root() {
        let error = Cluster::start(place.options()).unwrap_err().to_string();
        assert!(
            error.contains("belongs to uid 0; PostgreSQL never runs as root"),
            "{error}"
        );
        for path in [place.data_dir(), place.data_dir().join("PG_VERSION")] {
            std::os::unix::fs::chown(path, Some(1), Some(1)).unwrap();
        }
    }
    let error = Cluster::start(place.options()).unwrap_err().to_string();
    assert!(error.contains("was made by PostgreSQL 99, but only"), "{error}");
}

#[test]
fn a_directory_with_something_else_is_left_alone() {
    let place = Place::new();
    std::fs::create_dir(place.data_dir()).unwrap();
    std::fs::write(place.data_dir().join("letter"), "dear").unwrap();
    let error = Cluster::start(place.options()).unwrap_err();
    assert!(matches!(error, PostgresError::NotACluster { .. }), "{error}");
    assert_eq!(
        std::fs::read_to_string(place.data_dir().join("letter")).unwrap(),
        "dear"
    );
}

#[test]
fn a_place_that_the_servers_user_cannot_reach_is_named() {
    if !rustix::process::geteuid().is_root() {
        return; // The server runs as ourselves then.
    }
    let place = Place::new();
    std::fs::set_permissions(place.path(), PermissionsExt::from_mode(0o700)).unwrap();
    let error = Cluster::start(place.options()).unwrap_err().to_string();
    assert!(
        error.contains(&format!("chmod o+x {}", place.path().display())),
        "{error}"
    );
}

#[test]
fn a_throwaway_is_removed_whole_and_nothing_else_is() {
    let place = Place::new();
    let around = place.path().join("wattle-test-x");
    let cluster = Cluster::start(Options::throwaway(around.join("pg"))).unwrap();
    assert_eq!(owner(&cluster, "show fsync"), "off");
    postgres::remove_throwaway(&around.join("pg")).unwrap();
    assert_eq!(cluster.postmaster_pid(), None);
    assert!(!around.exists());
    let error = postgres::remove_throwaway(&place.data_dir()).unwrap_err();
    assert!(matches!(error, PostgresError::NotACluster { .. }), "{error}");
    assert!(place.path().exists());
}
