-- The version is the number of the newest file in migrations/, or 1 while there are none.
insert into absurd.schema_version (version) values ('1');
do $$ begin perform absurd.create_queue('default'); end $$;
