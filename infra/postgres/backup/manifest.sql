-- Print what a restored database must equal, in lines of relation, item, value. For psql.
\pset tuples_only on
\pset format unaligned
\pset fieldsep '\t'
-- The checksums are those of the rows' text.
set datestyle = 'ISO, YMD';
set intervalstyle = 'postgres';
set timezone = 'UTC';
set extra_float_digits = 1;
set bytea_output = 'hex';

-- Of each table: rows, a checksum of all columns, and sums of numeric columns. A float's shortest text is exact.
select format(
    'select %L, item, value from (select array[''rows'', ''checksum''%s] as items, array[count(*)::text, '
    'coalesce(sum(hashtextextended(whole_row::text, 0)::numeric), 0)::text%s] as totals from only %I.%I as whole_row) '
    'as found, unnest(items, totals) as line (item, value)',
    format('%I.%I', nspname, relname),
    string_agg(format(', %L', 'sum of ' || attname), '' order by attnum) filter (where attname is not null),
    string_agg(format(case when atttypid in ('float4'::regtype, 'float8'::regtype)
        then ', coalesce(sum(whole_row.%I::text::numeric), 0)::text'
        else ', coalesce(sum(whole_row.%I::numeric), 0)::text' end, attname), '' order by attnum)
        filter (where attname is not null),
    nspname, relname
)
from pg_class
join pg_namespace on pg_namespace.oid = relnamespace
left join pg_attribute on attrelid = pg_class.oid and attnum > 0 and not attisdropped
    and atttypid in ('int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'numeric'::regtype, 'float4'::regtype, 'float8'::regtype)
where relkind = 'r' and nspname !~ '^pg_' and nspname <> 'information_schema'
group by nspname, relname
order by nspname, relname
\gexec

-- Owners and rights of schemas, tables, views and columns.
with objects as (
    select format('schema %I', nspname) as relation, nspowner as owner, coalesce(nspacl, acldefault('n', nspowner)) as rights
    from pg_namespace where nspname !~ '^pg_' and nspname <> 'information_schema'
    union all
    select format('%I.%I', nspname, relname), relowner, coalesce(relacl, acldefault('r', relowner))
    from pg_class join pg_namespace on pg_namespace.oid = relnamespace
    where relkind in ('r', 'p', 'v', 'm') and nspname !~ '^pg_' and nspname <> 'information_schema'
), lines as (
    select relation, 'owner' as item, owner::regrole::text as value from objects
    union all
    select relation, 'rights', (select string_agg(entry::text, ' ' order by entry::text) from unnest(rights) as entry)
    from objects
    union all
    select format('%I.%I', nspname, relname), 'rights on ' || attname,
        (select string_agg(entry::text, ' ' order by entry::text) from unnest(attacl) as entry)
    from pg_attribute join pg_class on pg_class.oid = attrelid join pg_namespace on pg_namespace.oid = relnamespace
    where attacl is not null and not attisdropped and nspname !~ '^pg_' and nspname <> 'information_schema'
)
select relation, item, coalesce(value, '') from lines order by relation, item;
