Feature: Workers that nobody uses
  A worker without requests is unloaded after its idle_timeout. It is still what the file asks for.

  Scenario: A worker is unloaded, seen, started again and removed
    Given a fleet whose worker may be idle for a second
    When it is applied again
    And "chat-0" is unloaded
    And the command "plan --detailed-exitcode" is run
    Then the command ends with 0 and says "No changes"
    When the command "status" is run
    Then the command ends with 0 and says "unloaded"
    And it says "had no request for 1 second"
    When the command "worker spawn --model bee-tiny --worker-id chat-0" is run
    Then the command ends with 0 and says "chat-0"
    When "chat-0" is unloaded
    And the command "plan --detailed-exitcode" is run
    Then the command ends with 0 and says "No changes"
    When "idle_timeout: 1s" becomes "idle_timeout: 1h" in the file
    And it is applied again
    Then the command ends with 0 and says "2 to change, 0 to replace"
    And it says "idle_timeout 1 second -> 1 hour"
    And the worker is loaded
    When "idle_timeout: 1h" becomes "idle_timeout: 2h" in the file
    And the hive is asked for its workers
    And it is applied again
    Then the command ends with 0 and says "2 to change, 0 to replace"
    And the worker is the one it was and may be idle for 7200 seconds
    When the command "plan --detailed-exitcode" is run
    Then the command ends with 0 and says "No changes"
    When "replicas: 1" becomes "replicas: 0" in the file
    And it is applied again
    Then the command ends with 0 and says "3 to remove"

  Scenario: An unloaded worker that the file does not want any more is removed
    Given a fleet whose worker may be idle for a second
    When it is applied again
    And "chat-0" is unloaded
    And "replicas: 1" becomes "replicas: 0" in the file
    And it is applied again
    Then the command ends with 0 and says "3 to remove"
    And the hive has no worker
