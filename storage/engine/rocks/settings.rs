//! How RocksDB is set up: durability first, then little memory, then speed.
//!
//! Keeps: nothing here is a matter of taste where a crash is concerned; those lines say why.
//! Never: stored with the data as RocksDB would have it. A directory opens with whatever stands here.

use std::ffi::{CStr, CString};
use std::io;

use rocksdb::compaction_filter::CompactionFilter;
use rocksdb::compaction_filter_factory::{CompactionFilterContext, CompactionFilterFactory};
use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, CompactionDecision, DBCompressionType, LogLevel,
    LruCacheOptions,
};

use super::super::{Retain, Table};
use super::Options;
use crate::error::Error;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

pub(super) fn block_cache(options: &Options) -> Cache {
    let mut cache = LruCacheOptions::default();
    cache.set_capacity(options.block_cache_bytes);
    // Few shards: a shard must hold many blocks, and a block can be as large as a value.
    cache.set_num_shard_bits(2);
    Cache::new_lru_cache_opts(&cache)
}

pub(super) fn database_options(options: &Options) -> Result<rocksdb::Options, Error> {
    // What the crate has no word for. A flush that failed is not tried again, and closing is not syncing.
    let mut database = rocksdb::Options::default()
        .get_options_from_string(
            "avoid_flush_during_shutdown=true;max_bgerror_resume_count=0;\
             verify_sst_unique_id_in_manifest=true",
        )
        .map_err(|error| Error::engine("set up RocksDB", io::Error::other(error)))?;
    database.create_if_missing(true);
    database.create_missing_column_families(true);
    database.set_paranoid_checks(true);
    // Without it a crash could keep one table's newer rows with another's older ones.
    database.set_atomic_flush(true);
    database.set_enable_pipelined_write(false);
    database.set_db_write_buffer_size(options.write_buffer_bytes);
    database.set_max_background_jobs(options.background_threads.max(1));
    database.set_max_open_files(options.open_files_max);
    database.set_max_file_opening_threads(1);
    database.set_table_cache_num_shard_bits(2);
    database.set_skip_stats_update_on_db_open(true);
    database.set_avoid_unnecessary_blocking_io(true);
    // Written back as it goes, so that a large flush does not hold up the log's syncs at its end.
    database.set_bytes_per_sync(MIB as u64);
    database.set_manifest_preallocation_size(64 * KIB);
    database.set_max_manifest_file_size(4 * MIB);
    database.set_log_level(LogLevel::Warn);
    database.set_max_log_file_size(MIB);
    database.set_keep_log_file_num(2);
    database.set_stats_dump_period_sec(0);
    database.set_stats_persist_period_sec(0);
    Ok(database)
}

pub(super) fn table_options(
    table: Table,
    options: &Options,
    cache: &Cache,
    retain: &Retain,
) -> rocksdb::Options {
    let mut family = rocksdb::Options::default();
    // One table may use the whole buffer; the database bounds what all use together.
    family.set_write_buffer_size(options.write_buffer_bytes);
    family.set_max_write_buffer_number(4);
    // What a table that was written to once takes at least.
    family.set_arena_block_size(64 * KIB);
    family.set_level_compaction_dynamic_level_bytes(true);
    // Each table of a flush is a file of its own, mostly smaller than the buffer. Twice as many of them as
    // usual are let pile up: a fifth less is rewritten under a load of overwrites, and point reads have
    // filters.
    family.set_level_zero_file_num_compaction_trigger(8);
    family.set_max_bytes_for_level_base(4 * options.write_buffer_bytes as u64);
    family.set_target_file_size_base(options.write_buffer_bytes as u64);
    // What a compaction writes stands beside what it reads until it ends. This bounds how much of the space
    // that is kept free for deletes and compaction (`directory::space`) one of them can take.
    family.set_max_compaction_bytes(6 * options.write_buffer_bytes as u64);
    // Not zstd, not even on the last level: history lives minutes, and what is overwritten would be read from
    // there. It took a sixth of all processor time under a load of overwrites.
    family.set_compression_type(DBCompressionType::Lz4);

    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(cache);
    // Indexes and filters count against the cache, in pieces, so that memory has one bound.
    blocks.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
    blocks.set_metadata_block_size(4 * KIB);
    blocks.set_cache_index_and_filter_blocks(true);
    blocks.set_cache_index_and_filter_blocks_with_high_priority(true);
    blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);
    blocks.set_pin_top_level_index_and_filter(true);
    match table {
        Table::Live => {
            // Every create looks for a key that is not there.
            blocks.set_bloom_filter(10.0, false);
            blocks.set_whole_key_filtering(true);
            blocks.set_partition_filters(true);
            blocks.set_optimize_filters_for_memory(true);
            // Holds a few of Kubernetes' objects: to handle blocks is a third of what a list of them costs.
            blocks.set_block_size(16 * KIB);
            family.set_memtable_whole_key_filtering(true);
            family.set_memtable_prefix_bloom_ratio(0.01);
        }
        // Read in long runs or not at all.
        Table::Past | Table::Changes => blocks.set_block_size(16 * KIB),
        Table::Meta | Table::Leases | Table::LeaseKeys | Table::System => {
            blocks.set_block_size(4 * KIB);
        }
    }
    family.set_block_based_table_factory(&blocks);
    if table.forgets() {
        family.set_compaction_filter_factory(Forgetting { table, retain: retain.clone() });
    } else {
        // Where rows come and go (events, leases), scans would otherwise wade through deletes.
        family.add_compact_on_deletion_collector_factory(4096, 2048, 0.0);
    }
    family
}

/// Makes the filter of each compaction.
struct Forgetting {
    table: Table,
    retain: Retain,
}

struct Filter {
    table: Table,
    retain: Retain,
    name: CString,
}

const FILTER_NAME: &CStr = c"kontiki.retain";

impl CompactionFilterFactory for Forgetting {
    type Filter = Filter;

    fn create(&mut self, _context: CompactionFilterContext) -> Filter {
        Filter { table: self.table, retain: self.retain.clone(), name: FILTER_NAME.to_owned() }
    }

    fn name(&self) -> &CStr {
        FILTER_NAME
    }
}

impl CompactionFilter for Filter {
    fn filter(&mut self, _level: u32, key: &[u8], value: &[u8]) -> CompactionDecision {
        if (self.retain)(self.table, key, value) {
            CompactionDecision::Keep
        } else {
            CompactionDecision::Remove
        }
    }

    fn name(&self) -> &CStr {
        &self.name
    }
}
