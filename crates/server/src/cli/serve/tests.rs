use clap::Parser;

use super::*;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    serve: ServeArgs,
}

const FLAGS: &str = "serve --server-id s1 --dir d --master 127.0.0.1:9400 --data 127.0.0.1:1 \
                     --control 127.0.0.1:2 --nbd 127.0.0.1:3";

fn settings(line: &str) -> Result<ServeConfig, CliError> {
    Line::parse_from(line.split_whitespace()).serve.settings()
}

fn with_file(text: &str, flags: &str) -> Result<ServeConfig, CliError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("server.toml");
    std::fs::write(&path, text).unwrap();
    settings(&format!("serve --config {} {flags}", path.display()))
}

#[test]
fn flags_alone_are_enough() {
    let config = settings(FLAGS).unwrap();
    assert_eq!(config.server_id.as_str(), "s1");
    assert_eq!(config.stores, StoreLocation::Dir("d".into()));
    assert_eq!(config.control.listen, "127.0.0.1:2".parse().unwrap());
    assert_eq!(config.nbd_limits, NbdLimits::default());
}

#[test]
fn the_sample_is_printed_whatever_else_is_given() {
    // Settings may come from the environment, where nobody thinks of them.
    let line = format!("{FLAGS} --print-config");
    let serve = Line::try_parse_from(line.split_whitespace()).unwrap().serve;
    let mut out = Vec::new();
    assert_eq!(run(&serve, &mut out).unwrap(), Exit::Done);
    assert_eq!(out, file::SAMPLE.as_bytes());
}

#[test]
fn the_sample_alone_is_enough_and_flags_win_over_it() {
    let config = with_file(file::SAMPLE, "--server-id s7 --device /dev/x").unwrap();
    assert_eq!(config.server_id.as_str(), "s7");
    assert_eq!(config.stores, StoreLocation::Device("/dev/x".into()));
    assert_eq!(config.data.listen, "127.0.0.1:9501".parse().unwrap());
}

#[test]
fn a_setting_that_is_nowhere_is_named() {
    let error = settings("serve --server-id s1").unwrap_err();
    assert_eq!(error.exit(), Exit::Usage);
    let CliError::Missing { keys } = error else {
        panic!("{error}");
    };
    // All at once; the master's address may come from the environment.
    assert!(
        keys.iter().eq(["dir", "master", "data", "control", "nbd"]
            .iter()
            .filter(|key| keys.contains(key)))
    );
    assert!(keys.len() >= 4, "{keys:?}");
    let without_dir = FLAGS.replace("--dir d", "");
    let error = settings(&without_dir).unwrap_err();
    assert!(matches!(&error, CliError::Missing { keys } if keys[..] == ["dir"]));
    assert!(error.report().contains("--device"), "{}", error.report());
}

#[test]
fn a_wrong_value_in_the_file_is_named_with_what_would_do() {
    let without_data = FLAGS["serve".len()..].replace("--data 127.0.0.1:1", "");
    let error = with_file("data = \"here\"\n", &without_data).unwrap_err();
    assert_eq!(error.exit(), Exit::Usage);
    let text = error.to_string();
    assert!(
        text.contains("`here`") && text.contains("IP:PORT"),
        "{text}"
    );
    let error = with_file("dir = \"a\"\ndevice = \"b\"\n", &FLAGS["serve".len()..]);
    assert!(error.is_ok(), "a flag decides between the two");
    let both = file::SAMPLE.replace("#device", "device");
    assert!(matches!(
        with_file(&both, ""),
        Err(CliError::Conflict { .. })
    ));
}

#[test]
fn an_open_address_needs_a_key_or_a_word() {
    let open = FLAGS.replace(
        "--data 127.0.0.1:1",
        "--data 0.0.0.0:1 --data-advertise h:1",
    );
    assert_eq!(settings(&open).unwrap_err().exit(), Exit::Unsafe);
    assert!(settings(&format!("{open} --insecure")).is_ok());
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("key");
    let keyed = format!("{open} --cluster-key {}", key.display());
    assert_eq!(settings(&keyed).unwrap_err().exit(), Exit::Usage);
    std::fs::write(&key, "short\n").unwrap();
    let error = settings(&keyed).unwrap_err().report();
    assert!(error.contains("64 hexadecimal digits"), "{error}");
    std::fs::write(&key, format!("{}\n", "ab".repeat(32))).unwrap();
    assert!(settings(&keyed).is_ok());
    assert!(matches!(
        settings(&format!("{keyed} --insecure")),
        Err(CliError::Conflict { .. })
    ));
}
