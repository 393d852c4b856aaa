//! What only RocksDB can do wrong.

use super::*;

/// RocksDB 11.8 waits for the wrong flush when one is at work already, and calls a sync done that has not
/// begun.
#[test]
fn a_sync_during_another_flush_waits_for_its_own() {
    let directory = tempfile::tempdir().unwrap();
    // So small that RocksDB itself flushes all the time.
    let options = Options { write_buffer_bytes: 64 << 10, ..Default::default() };
    let retain: Retain = Arc::new(|_, _, _| true);
    let rocks = Rocks::open(directory.path(), &options, retain).unwrap();
    let value = vec![7; 9 << 10];
    for round in 0..150u32 {
        let mut batch = Batch::new();
        for table in Table::ALL {
            batch.put(table, &[b"key"], &[&value]);
        }
        rocks.write(&batch).unwrap();
        // The tables' buffers are numbered differently from here on.
        let mut one = Batch::new();
        one.put(Table::System, &[&round.to_be_bytes()], &[b"row"]);
        rocks.write(&one).unwrap();
        rocks.sync().unwrap();
        assert_eq!(rocks.full_buffers(), 0, "round {round}");
        one.put(Table::System, &[b"last"], &[&round.to_be_bytes()]);
        rocks.write(&one).unwrap();
        rocks.sync().unwrap();
        assert_eq!(rocks.full_buffers(), 0, "round {round}");
    }
}
