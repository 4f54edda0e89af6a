use std::process::ExitCode;

use clap::CommandFactory;
use expect_test::{Expect, expect};
use moorline_wire::control::ClientError;

use super::*;
use crate::config::ConfigError;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(line.split_whitespace())
}

/// The error's text, with addresses and paths of the environment out of the way.
fn refused(line: &str, want: Expect) {
    let error = parse(line).unwrap_err();
    assert_eq!(error.exit_code(), 2, "{line}");
    want.assert_eq(&error.to_string());
}

#[test]
fn the_commands_are_well_formed() {
    Cli::command().debug_assert();
}

#[test]
fn everything_of_the_contract_is_understood() {
    for line in [
        "moorline dev",
        "moorline dev --dir d --replicas 3 --size 1GiB --nbd 127.0.0.1:10809 --listen 127.0.0.1:9400 \
         --policy sync_quorum --ack flushed --log-size 256MiB",
        "moorline master --dir d --listen 127.0.0.1:9400",
        "moorline master --dir d --listen 127.0.0.1:9400 --store embedded --failover lossy --lease-ms 500",
        "moorline master --dir d --listen 127.0.0.1:9400 --adopt-cluster 000102030405060708090a0b0c0d0e0f",
        "moorline master backup --to f",
        "moorline master backup --to f --master [::1]:9400 --json",
        "moorline master backup --dir d --to f",
        "moorline volume accept-loss demo --json",
        "moorline volume overrule demo --accept-loss",
        "moorline serve --config f.toml --on-volatile-loss continue",
        "moorline serve --config f.toml",
        "moorline serve --print-config",
        "moorline serve --server-id s1 --dir d --master 127.0.0.1:9400 --data 127.0.0.1:1 \
         --control 127.0.0.1:2 --nbd 127.0.0.1:3 --nbd-unix s.sock",
        "moorline serve --server-id s1 --device /dev/x --master m:9400 --data 127.0.0.1:1 \
         --control 127.0.0.1:2 --nbd 127.0.0.1:3 --nbd-fd 0 --exit-with-parent 7",
        "moorline volume create demo --size 1GiB --replicas 3",
        "moorline volume create demo --size 1GiB --replicas 2 --policy sync_all --ack received --min-copies 1",
        "moorline volume create demo --size 1GiB --replicas 3 --no-quorum error:30",
        "moorline volume list --json",
        "moorline volume status demo --json --master [::1]:9400",
        "moorline volume delete demo --insecure",
        "moorline status --watch",
        "moorline status --json",
        "moorline events demo --follow --json",
        "moorline store inspect p --digest --json",
    ] {
        if let Err(error) = parse(line) {
            panic!("{line}: {error}");
        }
    }
}

#[test]
fn a_master_runs_with_what_it_is_told_and_not_with_less() {
    let cli = parse("moorline master --dir d --listen 127.0.0.1:9400").unwrap();
    let Command::Master(args) = cli.command else {
        panic!("another command");
    };
    assert!(args.config().is_ok(), "{args:?}");
    for line in ["moorline master", "moorline master --dir d"] {
        assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
    }
}

#[test]
fn what_is_not_there_yet_is_not_offered() {
    for command in ["explain", "resize", "promote", "drain", "recover", "verify"] {
        let error = parse(&format!("moorline volume {command} demo")).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains(command), "{error}");
    }
}

#[test]
fn wrong_words_are_answered_with_right_ones() {
    refused(
        "moorline sail",
        expect![[r#"
        error: unrecognized subcommand 'sail'

        Usage: moorline <COMMAND>

        For more information, try '--help'.
    "#]],
    );
    refused(
        "moorline status --loudly",
        expect![[r#"
        error: unexpected argument '--loudly' found

        Usage: moorline status [OPTIONS]

        For more information, try '--help'.
    "#]],
    );
    refused(
        "moorline status --master nowhere",
        expect![[r#"
        error: invalid value 'nowhere' for '--master <HOST:PORT>': use HOST:PORT, such as 127.0.0.1:9400, storage-1:9400 or [::1]:9400

        For more information, try '--help'.
    "#]],
    );
    refused(
        "moorline volume create x --size 67108865 --replicas 1",
        expect![[r#"
            error: invalid value '67108865' for '--size <SIZE>': 67108865 is not a multiple of 4096: use 67108864 or 67112960

            For more information, try '--help'.
        "#]],
    );
    refused(
        "moorline volume create x --size huge --replicas 1",
        expect![[r#"
            error: invalid value 'huge' for '--size <SIZE>': use a whole number of bytes, or one with KiB, MiB, GiB, TiB or PiB

            For more information, try '--help'.
        "#]],
    );
    refused(
        "moorline volume create x --size 1GiB --replicas 0",
        expect![[r#"
            error: invalid value '0' for '--replicas <N>': 0 is not in 1..=7

            For more information, try '--help'.
        "#]],
    );
    refused(
        "moorline volume create x --size 1GiB --replicas 1 --policy hope",
        expect![[r#"
            error: invalid value 'hope' for '--policy <POLICY>': `hope` is not one of: best_effort, sync_quorum, sync_all

            For more information, try '--help'.
        "#]],
    );
    refused(
        "moorline volume create x",
        expect![[r#"
        error: the following required arguments were not provided:
          --size <SIZE>
          --replicas <N>

        Usage: moorline volume create --size <SIZE> --replicas <N> <NAME>

        For more information, try '--help'.
    "#]],
    );
    // Before anything is started for it.
    refused(
        "moorline dev --log-size 1MiB",
        expect![[r#"
            error: invalid value '1MiB' for '--log-size <SIZE>': a log needs at least 256 MiB

            For more information, try '--help'.
        "#]],
    );
    refused(
        "moorline dev --nbd localhost:10809",
        expect![[r#"
            error: invalid value 'localhost:10809' for '--nbd <IP:PORT>': use IP:PORT, such as 127.0.0.1:9400, 0.0.0.0:9400 or [::1]:9400; names are not looked up

            For more information, try '--help'.
        "#]],
    );
    refused(
        "moorline dev --replicas 40",
        expect![[r#"
            error: invalid value '40' for '--replicas <N>': 40 is not in 1..=7

            For more information, try '--help'.
        "#]],
    );
}

#[test]
fn help_says_what_there_is() {
    let help = |line: &str| parse(line).unwrap_err().to_string();
    expect![[r#"
        Block volumes kept alive on several machines, served over NBD

        Usage: moorline <COMMAND>

        Commands:
          dev     Run a whole cluster on this machine, with one volume to try
          master  Run a master: it records volumes and says who is primary
          serve   Run a volume server
          volume  Create, list, show and delete volumes
          status  Show the cluster; exit code 4 unless everything is whole
          events  Show what happened to a volume
          store   Look at stores that no server has open

        Options:
          -h, --help     Print help
          -V, --version  Print version

        Exit codes: 0 done, 1 failed, 2 usage, 3 not found, 4 degraded (status), 5 refused as unsafe.
        To try it: `moorline dev`.
    "#]].assert_eq(&help("moorline --help"));
    expect![[r#"
        Make a volume

        Usage: moorline volume create [OPTIONS] --size <SIZE> --replicas <N> <NAME>

        Arguments:
          <NAME>  Its name, which is also its NBD export name

        Options:
              --size <SIZE>         Its size, a multiple of 4096 (KiB, MiB, GiB, TiB, PiB)
              --replicas <N>        How many servers hold it
              --policy <POLICY>     Which copies a write needs: sync_quorum, sync_all or best_effort [default: sync_quorum; sync_all with two replicas]
              --ack <ACK>           What a copy must have done with a write: flushed or received [default: flushed]
              --min-copies <N>      Least copies of a write under sync_all [default: one less than replicas]
              --no-quorum <WHAT>    What requests meet while too few copies can be had: they wait, or fail after so long (error:SECONDS) [default: wait]
              --log-size <SIZE>     The log of each replica [default: 256MiB]
              --master <HOST:PORT>  The master's address [env: MOORLINE_MASTER] [default: 127.0.0.1:9400]
              --cluster-key <FILE>  File with the cluster's key; a `moorline dev` of the same user is found without [env: MOORLINE_CLUSTER_KEY]
              --insecure            Talk to a master on another machine without a key
          -h, --help                Print help
    "#]].assert_eq(&help("moorline volume create --help"));
    expect![[r#"
        Run a whole cluster on this machine, with one volume to try

        Usage: moorline dev [OPTIONS]

        Options:
              --dir <DIR>         Where everything is kept [default: $XDG_STATE_HOME/moorline/dev, ~/.local/state/moorline/dev]
              --replicas <N>      How many volume servers, each with a replica [default: 3]
              --size <SIZE>       The volume's size [default: 1GiB]
              --nbd <IP:PORT>     Where NBD clients find the volume [default: 127.0.0.1:10809]
              --listen <IP:PORT>  Where commands find the master [default: 127.0.0.1:9400]
              --policy <POLICY>   Which copies a write needs: sync_quorum, sync_all or best_effort [default: sync_quorum; sync_all with two replicas]
              --ack <ACK>         What a copy must have done with a write: flushed or received [default: flushed]
              --log-size <SIZE>   The log of each replica [default: 256MiB]
          -h, --help              Print help
    "#]].assert_eq(&help("moorline dev --help"));
}

#[test]
fn no_command_is_a_usage_error_and_help_is_none() {
    let run = |line: &str| run(line.split_whitespace().map(Into::into));
    assert_eq!(format!("{:?}", run("moorline --version")), code(Exit::Done));
    assert_eq!(format!("{:?}", run("moorline sail")), code(Exit::Usage));
    assert_eq!(format!("{:?}", run("moorline")), code(Exit::Usage));
}

fn code(exit: Exit) -> String {
    format!("{:?}", ExitCode::from(exit))
}

#[test]
fn errors_end_with_the_documented_codes() {
    let name = || "demo".to_owned();
    for (error, want) in [
        (ClientError::NotFound { name: name() }, Exit::NotFound),
        (ClientError::BadName { name: name() }, Exit::Usage),
        (ClientError::InUse { name: name() }, Exit::Unsafe),
        (ClientError::Exists { name: name() }, Exit::Failed),
        (
            ClientError::TooFewServers {
                replicas: 3,
                servers: 2,
            },
            Exit::Failed,
        ),
    ] {
        assert_eq!(CliError::Refused { error }.exit(), want);
    }
    let address = "0.0.0.0:9400".parse().unwrap();
    let open = ConfigError::KeyRequired {
        setting: "data",
        address,
    };
    assert_eq!(CliError::from(open).exit(), Exit::Unsafe);
    let lease = ConfigError::Lease { lease_ms: 1 };
    assert_eq!(CliError::from(lease).exit(), Exit::Usage);
    assert_eq!(CliError::Missing { keys: vec!["dir"] }.exit(), Exit::Usage);
}

#[test]
fn a_report_names_the_causes_once_and_says_what_to_do() {
    let error = CliError::Setup {
        what: "set up the log",
        source: io::Error::other("it is set up already"),
    };
    expect![[r#"
        error: cannot set up the log: it is set up already
    "#]]
    .assert_eq(&error.report());
    expect![[r#"
        error: setting `data` is missing
          what to do: give --data, or set them in the file that --config names; --print-config prints one
    "#]]
    .assert_eq(&CliError::Missing { keys: vec!["data"] }.report());
    let error = CliError::Refused {
        error: ClientError::TooFewServers {
            replicas: 3,
            servers: 2,
        },
    };
    expect![[r#"
        error: 3 replicas need as many servers, and 2 are connected: start more servers or ask for fewer replicas
    "#]].assert_eq(&error.report());
}
