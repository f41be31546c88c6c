-- What `apply_1` does, for a group of one commit with few keys: plain statements cost half as much as arrays
-- that are joined. Only an addition to format 1, so a store without it gets it from the first node that looks.
--
-- Compares the version of each of `condition_keys`, 0 where there is no value, and writes `write_names`; one
-- without a value is deleted. Answers the version, or minus the ordinal of the first condition that does not hold.
CREATE FUNCTION {schema}.commit_1(
    gate bigint, locks bigint[], exclusive boolean[], condition_keys bytea[], condition_versions bigint[],
    write_names bytea[], write_values bytea[]
) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    version_then bigint;
    version_now bigint;
BEGIN
    PERFORM pg_advisory_xact_lock_shared(gate);
    FOR i IN 1 .. cardinality(locks) LOOP
        IF exclusive[i] THEN
            PERFORM pg_advisory_xact_lock(locks[i]);
        ELSE
            PERFORM pg_advisory_xact_lock_shared(locks[i]);
        END IF;
    END LOOP;
    -- Statements after the locks: they see whatever the former holders of the locks committed.
    FOR i IN 1 .. cardinality(condition_keys) LOOP
        SELECT e.version INTO version_then FROM {schema}.entries e WHERE e.key = condition_keys[i];
        IF coalesce(version_then, 0) <> condition_versions[i] THEN
            RETURN -i;
        END IF;
    END LOOP;
    version_now := nextval('{schema}.versions');
    FOR i IN 1 .. cardinality(write_names) LOOP
        IF write_values[i] IS NULL THEN
            DELETE FROM {schema}.entries e WHERE e.key = write_names[i];
        ELSE
            INSERT INTO {schema}.entries (key, version, value) VALUES (write_names[i], version_now, write_values[i])
                ON CONFLICT (key) DO UPDATE SET version = excluded.version, value = excluded.value;
        END IF;
    END LOOP;
    RETURN version_now;
END $$;
