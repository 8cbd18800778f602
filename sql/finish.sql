-- The version is the number of the newest file in migrations/, or 1 while there are none.
insert into absurd.schema_version (version) values ('2');
do $$ begin perform absurd.create_queue('default'); end $$;
do $$ begin perform absurd.apply_roles(); end $$;
