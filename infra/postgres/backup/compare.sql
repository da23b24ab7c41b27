-- Compare a restored database with the manifest of its dump. For psql; restore_drill.sh gives the names of the files.
\set ON_ERROR_STOP on
\getenv restored DRILL_RESTORED
\getenv differences DRILL_DIFFERENCES
\o :restored
\ir manifest.sql
\o
create temporary table expected (relation text, item text, value text);
create temporary table restored (like expected);
\copy expected from program 'grep -v -P "^backup\t" "$DRILL_MANIFEST"' with (format csv, delimiter E'\t', quote E'\b')
\copy restored from program 'cat "$DRILL_RESTORED"' with (format csv, delimiter E'\t', quote E'\b')

\o :differences
select format('%s is missing in the restored database', relation)
from expected group by relation having relation not in (select relation from restored)
union all
select format('%s is not in the manifest', relation)
from restored group by relation having relation not in (select relation from expected)
union all
select format('%s: %s is %s in the manifest, %s in the restored database', relation, item,
    coalesce(expected.value, 'missing'), coalesce(restored.value, 'missing'))
from expected full join restored using (relation, item)
where expected.value is distinct from restored.value
    and relation in (select relation from expected intersect select relation from restored)
order by 1;
\o

select format('%12s  %4s  %s', 'rows', 'sums', 'table');
select format('%12s  %4s  %s', to_char(restored.value::bigint, 'FM999,999,999,999'), count(other), restored.relation)
from restored left join restored as other on other.relation = restored.relation and other.item ~ '^sum of '
where restored.item = 'rows'
group by restored.relation, restored.value
order by restored.relation;
