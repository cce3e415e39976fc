-- Take the bytes of pictures that are about to be deleted from those of their tenant, each picture once: a deletion that a
-- crash or an outage interrupts is repeated. Preceded by stored.lua.
-- KEYS[1]  hash: hour of expiry -> bytes
-- KEYS[2]  set: IDs of the pictures that are no longer counted, until they are deleted
-- ARGV[1]  seconds for which a picture is remembered at most
-- ARGV[2..] ID, hour of expiry and bytes of each picture
-- Returns  1
-- TTL      KEYS[1]: unchanged; KEYS[2]: ARGV[1]
-- Clock    none
redis.call('HLEN', KEYS[1])
for i = 2, #ARGV, 3 do
  if redis.call('SADD', KEYS[2], ARGV[i]) == 1 then take_back(KEYS[1], ARGV[i + 1], ARGV[i + 2]) end
end
redis.call('EXPIRE', KEYS[2], ARGV[1])
return 1
