-- Format 1. `{schema}` is replaced by the schema's name.
--  - entries: one row a key that has a value; lives until the key is deleted.
--  - versions: the counter of versions, which never goes back, whatever becomes of a transaction.
--  - meta: one row; its format is raised by a build that changes anything here. Such a build also drops
--    `apply_1` and `commit_1` and makes its own, so that older nodes that still run can write nothing.
CREATE SCHEMA IF NOT EXISTS {schema};
CREATE TABLE {schema}.meta (is_only boolean PRIMARY KEY CHECK (is_only), format bigint NOT NULL);
CREATE TABLE {schema}.entries (key bytea PRIMARY KEY, version bigint NOT NULL, value bytea NOT NULL)
    WITH (fillfactor = 90);
ALTER TABLE {schema}.entries ALTER COLUMN value SET STORAGE EXTERNAL;
CREATE SEQUENCE {schema}.versions AS bigint MINVALUE 1 CACHE 1 NO CYCLE;

-- Judges and applies the commits of one group in their order.
--
-- `locks` are the lock numbers of all keys in ascending order, `exclusive` says which of them a commit
-- writes; without `locks` the whole store is locked by `gate`. Commit `c` has the conditions up to
-- `condition_ends[c]` and the writes up to `write_ends[c]`, counted from where the commit before ends. A
-- condition compares the version of `keys[condition_keys[i]]`, 0 where there is no value. A write of
-- `keys[-write_keys[i]]`, without a value, is a deletion. Answers for each commit its version, or minus the ordinal of the first of its
-- conditions that does not hold.
CREATE FUNCTION {schema}.apply_1(
    gate bigint, locks bigint[], exclusive boolean[], keys bytea[],
    condition_ends int[], condition_keys int[], condition_versions bigint[],
    write_ends int[], write_keys int[], write_names bytea[], write_values bytea[]
) RETURNS bigint[] LANGUAGE plpgsql AS $$
DECLARE
    current bigint[];
    last_write int[] := array_fill(0, ARRAY[cardinality(keys)]);
    applied bigint[] := array_fill(0::bigint, ARRAY[cardinality(write_names)]);
    outcomes bigint[] := array_fill(0::bigint, ARRAY[cardinality(condition_ends)]);
    condition_at int := 0;
    write_at int := 0;
    broken int;
    version_now bigint;
    k int;
    puts boolean := false;
    deletes boolean := false;
BEGIN
    IF locks IS NULL THEN
        PERFORM pg_advisory_xact_lock(gate);
    ELSE
        PERFORM pg_advisory_xact_lock_shared(gate);
        PERFORM CASE WHEN l.is_exclusive THEN pg_advisory_xact_lock(l.number)
                     ELSE pg_advisory_xact_lock_shared(l.number) END
            FROM unnest(locks, exclusive) AS l(number, is_exclusive);
    END IF;
    -- A statement after the locks: it sees whatever the former holders of the locks committed.
    SELECT array_agg(coalesce(e.version, 0) ORDER BY n.at) INTO current
        FROM unnest(keys) WITH ORDINALITY AS n(key, at) LEFT JOIN {schema}.entries e ON e.key = n.key;
    FOR c IN 1 .. cardinality(condition_ends) LOOP
        broken := 0;
        FOR i IN condition_at + 1 .. condition_ends[c] LOOP
            IF current[condition_keys[i]] <> condition_versions[i] THEN
                broken := i - condition_at;
                EXIT;
            END IF;
        END LOOP;
        condition_at := condition_ends[c];
        IF broken > 0 THEN
            outcomes[c] := -broken;
        ELSE
            version_now := nextval('{schema}.versions');
            outcomes[c] := version_now;
            FOR i IN write_at + 1 .. write_ends[c] LOOP
                k := abs(write_keys[i]);
                IF last_write[k] > 0 THEN
                    applied[last_write[k]] := 0;
                END IF;
                last_write[k] := i;
                applied[i] := version_now;
                IF write_keys[i] > 0 THEN
                    current[k] := version_now;
                    puts := true;
                ELSE
                    current[k] := 0;
                    deletes := true;
                END IF;
            END LOOP;
        END IF;
        write_at := write_ends[c];
    END LOOP;
    IF puts THEN
        INSERT INTO {schema}.entries (key, version, value)
            SELECT w.key, w.version, w.value FROM unnest(write_names, applied, write_values) AS w(key, version, value)
            WHERE w.version > 0 AND w.value IS NOT NULL
            ON CONFLICT (key) DO UPDATE SET version = excluded.version, value = excluded.value;
    END IF;
    IF deletes THEN
        DELETE FROM {schema}.entries e
            USING unnest(write_names, applied, write_values) AS w(key, version, value)
            WHERE e.key = w.key AND w.version > 0 AND w.value IS NULL;
    END IF;
    RETURN outcomes;
END $$;

INSERT INTO {schema}.meta VALUES (true, 1);
