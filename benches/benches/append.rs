//! What does a record cost from `append` to its flushed frontier, when the device costs nothing?
//!
//! Three questions, for batches of 1, 16 and 64 records of 4 KiB: the record itself (checksum and
//! header), the frame that carries a batch, and the log's bookkeeping around it. Divided by the batch
//! it is the time that the log takes of each client write.
#![expect(missing_docs, reason = "criterion's macro makes a public function")]

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use moorline_benches::{MemoryLog, one_block, write_record};
use moorline_types::{BufferPool, Lsn};
use moorline_wal::Record;

fn record(c: &mut Criterion) {
    let payload = one_block(&BufferPool::new());
    let mut lsn = Lsn::ZERO;
    c.bench_function("record: checksum and header of 4 KiB", |b| {
        b.iter(|| {
            lsn = lsn.next();
            write_record(lsn, &payload)
        });
    });
}

fn append(c: &mut Criterion) {
    let payload = one_block(&BufferPool::new());
    let mut group = c.benchmark_group("append, frame, flushed");
    for count in [1_u64, 16, 64] {
        group.throughput(Throughput::Elements(count));
        group.bench_function(format!("{count} records"), |b| {
            let mut store = MemoryLog::new();
            let mut made = store.log.head();
            b.iter_batched(
                || -> Vec<Record> {
                    (0..count)
                        .map(|_| {
                            made = made.next();
                            write_record(made, &payload)
                        })
                        .collect()
                },
                |batch| {
                    let flushed = store.commit(batch);
                    if store.is_nearly_full() {
                        store.forget();
                    }
                    flushed
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, record, append);
criterion_main!(benches);
