-- The bytes that a tenant stores: hash, hour of expiry -> bytes. Stands before the scripts that take some of them back.

-- Takes the bytes of an object that is deleted, or was not stored. Those of an hour never become negative.
local function take_back(stored, hour, bytes)
  local counted = tonumber(redis.call('HGET', stored, hour) or 0)
  if counted > tonumber(bytes) then
    redis.call('HINCRBY', stored, hour, -bytes)
  else
    redis.call('HDEL', stored, hour)
  end
end
