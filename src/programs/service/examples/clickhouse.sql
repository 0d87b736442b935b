-- The events in ClickHouse, one row each. A test fills it in chDB, which is ClickHouse in a process.
-- clickhouse-load, beside this file, fills it, each event exactly once. By Vector (vector.yaml) some may come again: rows
-- that are equal up to `to` are one for this table (FINAL, as they are merged later). Take one of the two ways.
CREATE TABLE IF NOT EXISTS nat64_events
(
    at DateTime64(6, 'UTC'),
    event LowCardinality(String),
    nat64 IPv4,
    port UInt16,
    client IPv6,
    client_port UInt16,
    -- Where the log has them (--log-format full or json): the server's address, and the NAT64's prefix.
    `to` Nullable(IPv4),
    prefix LowCardinality(Nullable(String)),
    -- Where to go on. The first part that sorts is the file's first time, then the place in it.
    cursor String CODEC(ZSTD),
    -- Of a "Lost": lines after that time may be missing (removed), or come again (changed).
    why LowCardinality(String)
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(at)
ORDER BY (nat64, port, at, event, client, client_port, `to`)
SETTINGS allow_nullable_key = 1;

-- Who had 192.0.2.7:3719 on 18 March 2019 at 12:00? As `nat64handoff who` says, entries do not expire: it may be of weeks ago.
-- Of one microsecond, the last of the log counts.
--   SELECT event, client, client_port, at FROM nat64_events
--   WHERE nat64 = '192.0.2.7' AND port = 3719 AND at <= '2019-03-18 12:00:00' AND event IN ('Created', 'Deleted')
--   ORDER BY at DESC, substring(cursor, 20, 28) DESC, event ASC LIMIT 1
