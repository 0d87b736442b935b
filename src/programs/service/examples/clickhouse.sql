-- The events in ClickHouse, one row each. Tried with chDB 4.4, which is ClickHouse in a process.
-- clickhouse-load, beside this file, fills it, each event exactly once.
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
    why LowCardinality(String)
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(at)
ORDER BY (nat64, port, at);

-- Who had 192.0.2.7:3719 on 18 March 2019 at 12:00? As `nat64handoff who` says, entries do not expire: it may be of weeks ago.
--   SELECT event, client, client_port, at FROM nat64_events
--   WHERE nat64 = '192.0.2.7' AND port = 3719 AND at <= '2019-03-18 12:00:00' AND event IN ('Created', 'Deleted')
--   ORDER BY at DESC, event ASC LIMIT 1
