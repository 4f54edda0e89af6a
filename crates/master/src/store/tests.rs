use moorline_types::{BootId, ClusterId, ServerId};

use super::{embedded::EmbeddedStore, memory::MemoryStore, *};
use crate::record::{MetaRecord, ServerRecord};

pub(crate) fn meta(start: u64) -> Value {
    Value::Meta(MetaRecord {
        start,
        ..MetaRecord::new(ClusterId::new(7), 1)
    })
}

fn server(name: &str) -> (Key, Value) {
    let server: ServerId = name.parse().unwrap();
    let value = Value::Server(ServerRecord {
        server: server.clone(),
        boot: BootId::new(1),
        data_addr: "a:1".into(),
        control_addr: "a:2".into(),
        nbd_addr: "a:3".into(),
        endpoint_version: 1,
        version: "1".into(),
    });
    (Key::Server(server), value)
}

fn change(key: Key, expected: Expected, value: Option<Value>) -> Change {
    Change {
        key,
        expected,
        value,
    }
}

fn txn(changes: Vec<Change>) -> Txn {
    Txn {
        id: TxnId::new(1),
        changes,
    }
}

fn one_version_after_another(store: &mut impl RecordStore) {
    let first = RecordVersion::FIRST;
    let make = change(Key::Meta, Expected::Absent, Some(meta(1)));
    store.commit(&txn(vec![make.clone()])).unwrap();
    assert!(matches!(
        store.commit(&txn(vec![make])),
        Err(CommitError::Lost { .. })
    ));
    let (key, value) = server("s1");
    let wrong = txn(vec![
        change(key.clone(), Expected::Absent, Some(value)),
        change(Key::Meta, Expected::Version(first.next()), Some(meta(9))),
    ]);
    let lost = store.commit(&wrong).unwrap_err();
    let current = vec![
        (key, None),
        (
            Key::Meta,
            Some(Stored {
                version: first,
                value: meta(1),
            }),
        ),
    ];
    assert_eq!(
        lost,
        CommitError::Lost {
            key: "meta".into(),
            current,
        }
    );
    assert_eq!(store.load().unwrap().len(), 1, "all or nothing");
    let right = change(Key::Meta, Expected::Version(first), Some(meta(2)));
    store.commit(&txn(vec![right])).unwrap();
    let loaded = store.load().unwrap();
    assert_eq!(loaded[&Key::Meta].version, first.next());
    let name = change(
        Key::Name("demo".into()),
        Expected::Absent,
        Some(Value::Name(moorline_types::VolumeId::new(3))),
    );
    store.commit(&txn(vec![name])).unwrap();
    assert!(
        store
            .load()
            .unwrap()
            .contains_key(&Key::Name("demo".into()))
    );
    let gone = change(Key::Meta, Expected::Anything, None);
    store.commit(&txn(vec![gone])).unwrap();
    assert!(!store.load().unwrap().contains_key(&Key::Meta));
}

#[test]
fn every_store_compares_before_it_sets() {
    one_version_after_another(&mut MemoryStore::new());
    let directory = tempfile::tempdir().unwrap();
    one_version_after_another(&mut EmbeddedStore::open(directory.path()).unwrap());
}

#[test]
fn the_file_keeps_what_was_committed() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = EmbeddedStore::open(directory.path()).unwrap();
    let (key, value) = server("s1");
    store
        .commit(&txn(vec![change(key, Expected::Absent, Some(value))]))
        .unwrap();
    let before = store.load().unwrap();
    assert!(matches!(
        EmbeddedStore::open(directory.path()),
        Err(super::embedded::EmbeddedStoreError::InUse { .. })
    ));
    drop(store);
    let mut store = EmbeddedStore::open(directory.path()).unwrap();
    assert_eq!(store.load().unwrap(), before);
}

#[test]
fn a_crash_keeps_whole_transactions_in_order() {
    let mut store = MemoryStore::new();
    for start in 1..4 {
        let expected = match start {
            1 => Expected::Absent,
            _ => Expected::Version(RecordVersion::new(start - 1)),
        };
        store.begin(txn(vec![change(Key::Meta, expected, Some(meta(start)))]));
    }
    store.crash(2);
    assert_eq!(store.durable()[&Key::Meta].value, meta(2));
    assert!(store.finish().is_none());
}
