-- Take the bytes of a deleted object, or of one that was not stored, from those of its tenant. Preceded by stored.lua.
-- KEYS[1]  hash: hour of expiry -> bytes
-- KEYS[2]  absent, or KEYS[4] of take_room.lua: what it does not remember is not taken
-- ARGV[1], ARGV[2]  hour of expiry; bytes
-- Returns  1; 0 if nothing was taken
-- TTL      unchanged
-- Clock    none
if KEYS[2] and redis.call('HDEL', KEYS[2], 'stored_until') == 0 then return 0 end
take_back(KEYS[1], ARGV[1], ARGV[2])
return 1
